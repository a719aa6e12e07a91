"""Solvers behind HTTP."""
