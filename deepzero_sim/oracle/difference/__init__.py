"""Differences carried through a network: what a step in a few coordinates changes, without subtracting two results."""
