"""Images as arrays in an npz file: `train_x`, `train_y`, `test_x` and `test_y`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from deepzero_sim.datasets.images import ImageData, Images
from deepzero_sim.errors import DataError


def read(path: Path) -> ImageData:
    """The images of a file; classes are named by their numbers.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = [Images(file[f"{name}_x"], file[f"{name}_y"]) for name in ("train", "test")]
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} must hold train_x and test_x, uint8 (N, H, W, C), with train_y and test_y, but cannot be read so "
            f"({error}): check the file."
        ) from error
    train, test = (_with_whole_labels(part, path) for part in parts)
    found = np.unique(train.labels)
    if not np.array_equal(found, np.arange(len(found))):
        raise DataError(
            f"{path} must have training images of every class, numbered from 0 without gaps, but train_y holds "
            f"{len(found)} classes from {found.min()} to {found.max()}: number them anew."
        )
    return ImageData(train, test, tuple(map(str, range(len(found)))))


def _with_whole_labels(part: Images, path: Path) -> Images:
    if not np.issubdtype(part.labels.dtype, np.integer) or not part.labels.size:
        raise DataError(f"{path} must have labels that are whole numbers, not {part.labels.dtype} {part.labels.shape}.")
    return Images(part.pixels, part.labels.astype(np.int64))
