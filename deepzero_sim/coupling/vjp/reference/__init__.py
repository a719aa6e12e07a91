"""Jacobians measured at a few reference states."""
