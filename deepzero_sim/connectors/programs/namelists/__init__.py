"""Fortran namelists with values of settings filled in."""
