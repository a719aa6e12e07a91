"""Solvers with the Basic Model Interface."""
