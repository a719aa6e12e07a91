"""Checks of what users bring and of what the package estimates."""
