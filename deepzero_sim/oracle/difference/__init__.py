"""Differences propagated through a network: the effect of a step in a few coordinates, without subtracting two results."""
