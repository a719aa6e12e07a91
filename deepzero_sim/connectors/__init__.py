"""Solvers that are not Python functions: programs, services and models, as they are."""
