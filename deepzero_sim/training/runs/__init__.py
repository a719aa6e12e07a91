"""Runs of correctors: settings, training, and the use of what was trained."""
