"""Labelled images: read from archives, folders and arrays, cached, and cut into batches."""
