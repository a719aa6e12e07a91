"""Labelled images: what a classifier is trained and tested on, and the HDF5 file that keeps them once they were read.

/train/pixels, /test/pixels    uint8 (N, H, W, C)
/train/labels, /test/labels    int64 (N,), places in the list of classes
attributes                     format, version, classes (JSON), source: its name and checksum
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.datasets.hdf5 import writing
from deepzero_sim.errors import DataError

FORMAT, VERSION = "deepzero-sim images", 1


@dataclass(frozen=True, eq=False)
class Images:
    """Some of them.

    Args:
        pixels: uint8 `(N, H, W, C)`.
        labels: int64 `(N,)`.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of every channel, `(C,)` each, for pixels from 0 to 1."""
        levels = np.arange(256) / 255
        counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(self.pixels, -1, 0)])
        shares = counts / counts.sum(axis=1, keepdims=True)
        mean = shares @ levels
        return mean, np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))


class ImageData(NamedTuple):
    """Images of a few classes, to train on and to test on.

    Args:
        train: to be learned from.
        test: never seen in training.
        classes: their names, in the order of the labels.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]


def checked(data: ImageData, source: Path) -> ImageData:
    """The data, if they can be trained on.

    Raises:
        DataError: they cannot.
    """
    shapes = {part.pixels.shape[1:] for part in (data.train, data.test)}
    if not (len(data.train) and len(data.test)):
        raise DataError(f"{source} must hold images to train and to test on, but one of the two has none: check the file.")
    if len(shapes) > 1:
        raise DataError(f"{source} must hold images of one size, not {' and '.join(map(str, sorted(shapes)))}: resize them.")
    for part in (data.train, data.test):
        if part.pixels.dtype != np.uint8 or part.pixels.shape[:1] != part.labels.shape:
            raise DataError(
                f"{source} must hold pixels as uint8 (N, H, W, C) and a label for each image, not {part.pixels.dtype} "
                f"{part.pixels.shape} and {part.labels.shape} labels: check the file."
            )
        if not part.pixels.size:
            raise DataError(f"{source} must hold images of some size, not {part.pixels.shape[1:]}: check the file.")
        if not 0 <= part.labels.min() <= part.labels.max() < len(data.classes):
            raise DataError(f"{source} must have labels from 0 to {len(data.classes) - 1}: check the file.")
    return data


def save(path: Path, data: ImageData, source: str) -> None:
    """Write a file of images, whole or not at all.

    Args:
        path: the HDF5 file.
        data: what to write.
        source: what they were read from, by name and checksum.
    """
    with writing(path) as file:
        file.attrs["format"], file.attrs["version"], file.attrs["source"] = FORMAT, VERSION, source
        file.attrs["classes"] = json.dumps(data.classes)
        for name, part in (("train", data.train), ("test", data.test)):
            file[f"{name}/pixels"], file[f"{name}/labels"] = part.pixels, part.labels


def load(path: Path) -> ImageData:
    """Read a file of images.

    Raises:
        DataError: it is no such file, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
                raise DataError(f"{path} is HDF5, but not a file of '{FORMAT}', version {VERSION}: delete it.")
            parts = [
                Images(np.asarray(file[f"{name}/pixels"]), np.asarray(file[f"{name}/labels"])) for name in ("train", "test")
            ]
            return checked(ImageData(parts[0], parts[1], tuple(json.loads(file.attrs["classes"]))), path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as HDF5 images ({error}): delete it, it is made again.") from error
