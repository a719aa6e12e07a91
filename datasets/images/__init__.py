"""Labelled images: read from archives, folders and arrays, cached, and cut into batches."""

from deepzero_sim.datasets.images.labelled_images import ImageData, Images

__all__ = ["ImageData", "Images"]
