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
            parts = [Images(file[f"{name}_x"], file[f"{name}_y"].astype(np.int64)) for name in ("train", "test")]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} must hold train_x and test_x, uint8 (N, H, W, C), with train_y and test_y, but cannot be read so "
            f"({error}): check the file."
        ) from error
    count = 1 + int(max(part.labels.max(initial=0) for part in parts))
    return ImageData(parts[0], parts[1], tuple(map(str, range(count))))
