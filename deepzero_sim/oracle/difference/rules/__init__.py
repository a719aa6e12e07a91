"""Difference rules of torch's operations: one table, and a file for each family of operations."""
