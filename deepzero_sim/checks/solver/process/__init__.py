"""Processes that a solver is asked in: it may crash, hang or end them, and costs nobody else anything."""
