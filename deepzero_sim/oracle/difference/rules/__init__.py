"""Rules for carrying a difference through torch's operations, one table and a file a family."""
