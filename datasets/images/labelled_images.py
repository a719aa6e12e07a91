"""Labelled images that a classifier is trained and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.hdf5 import show


@dataclass(frozen=True, eq=False)
class Images:
    """Images and their labels.

    Args:
        pixels: Pixels, uint8 `(N, H, W, C)`.
        labels: Places in the list of classes, int64 `(N,)`.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute mean and standard deviation of every channel, `(C,)` each, for pixels from 0 to 1."""
        levels = np.arange(256) / 255
        counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(self.pixels, -1, 0)])
        shares = counts / counts.sum(axis=1, keepdims=True)
        mean = shares @ levels
        return mean, np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))


class ImageData(NamedTuple):
    """Images of a few classes, to train on and to test on.

    Args:
        train: Images to learn from.
        test: Images never seen in training.
        classes: Names of the classes, in the order of the labels.
        notes: Sentences on what was left out or changed when the images were read.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def require_consistent(data: ImageData, source: Path) -> None:
    """Refuse data that a classifier cannot be trained and tested on.

    Args:
        data: Images.
        source: Path that they were read from, for messages.

    Raises:
        DataError: There are no images, or they differ in size, or pixels and labels do not fit together.
    """
    where = show(source)
    shapes = {part.pixels.shape[1:] for part in (data.train, data.test)}
    require_data(
        bool(len(data.train) and len(data.test)),
        f"{where} must hold images to train and to test on, but one of the two has none: check the file.",
    )
    require_data(
        len(shapes) == 1, f"{where} must hold images of one size, not {' and '.join(map(str, sorted(shapes)))}: resize them."
    )
    for part in (data.train, data.test):
        pixels, labels = part.pixels, part.labels
        require_data(
            pixels.dtype == np.uint8 and pixels.shape[:1] == labels.shape,
            f"{where} must hold pixels as uint8 (N, H, W, C) and a label for each image, not {pixels.dtype} "
            f"{pixels.shape} and {labels.shape} labels: check the file.",
        )
        require_data(pixels.size > 0, f"{where} must hold images of some size, not {pixels.shape[1:]}: check the file.")
        require_data(
            bool(0 <= labels.min() <= labels.max() < len(data.classes)),
            f"{where} must have labels from 0 to {len(data.classes) - 1}: check the file.",
        )


def relabel(part: Images, classes: Sequence[str], wanted: Sequence[str], source: Path) -> Images:
    """Copy images with the labels that other data give their classes, found by the classes' names.

    Args:
        part: Images.
        classes: Names of their classes, in the order of their labels.
        wanted: Names in the order of the new labels; names that are numbers, as arrays have them, stand for places.
        source: Path that the images were read from, for messages.

    Raises:
        DataError: A class is not among those wanted.
    """
    if _are_numbers(classes) or _are_numbers(wanted):
        classes = wanted[: len(classes)] if len(classes) <= len(wanted) else classes
    unknown = [name for name in classes if name not in wanted]
    require_data(
        not unknown,
        f"{show(source)} must hold images of the classes {', '.join(wanted)}, not of {', '.join(unknown)}: rename them, or "
        "take other images.",
    )
    places = np.array([wanted.index(name) for name in classes], np.int64)
    return Images(part.pixels, places[part.labels])


def _are_numbers(classes: Sequence[str]) -> bool:
    return list(classes) == [str(i) for i in range(len(classes))]
