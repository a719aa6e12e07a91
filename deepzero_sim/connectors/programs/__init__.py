"""Solvers that are programs: files in, files out."""
