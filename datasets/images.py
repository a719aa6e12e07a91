"""Labelled images: what a classifier is trained and tested on, and the HDF5 file that keeps them once they were read.

/train/pixels, /test/pixels    uint8 (N, H, W, C)
/train/labels, /test/labels    int64 (N,), places in the list of classes
attributes                     format, version, classes and notes (JSON), source: its name and checksum
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.datasets.hdf5 import reading, show, writing
from deepzero_sim.errors import DataError

FORMAT, VERSION = "deepzero-sim images", 2


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
        notes: what was left out or changed when they were read, a sentence each.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def checked(data: ImageData, source: Path) -> ImageData:
    """The data, if they can be trained on.

    Raises:
        DataError: they cannot.
    """
    where = show(source)
    shapes = {part.pixels.shape[1:] for part in (data.train, data.test)}
    if not (len(data.train) and len(data.test)):
        raise DataError(f"{where} must hold images to train and to test on, but one of the two has none: check the file.")
    if len(shapes) > 1:
        raise DataError(f"{where} must hold images of one size, not {' and '.join(map(str, sorted(shapes)))}: resize them.")
    for part in (data.train, data.test):
        if part.pixels.dtype != np.uint8 or part.pixels.shape[:1] != part.labels.shape:
            raise DataError(
                f"{where} must hold pixels as uint8 (N, H, W, C) and a label for each image, not {part.pixels.dtype} "
                f"{part.pixels.shape} and {part.labels.shape} labels: check the file."
            )
        if not part.pixels.size:
            raise DataError(f"{where} must hold images of some size, not {part.pixels.shape[1:]}: check the file.")
        if not 0 <= part.labels.min() <= part.labels.max() < len(data.classes):
            raise DataError(f"{where} must have labels from 0 to {len(data.classes) - 1}: check the file.")
    return data


def relabelled(part: Images, classes: Sequence[str], wanted: Sequence[str], source: Path) -> Images:
    """Images with the labels that other data give their classes, found by the classes' names.

    Args:
        part: the images.
        classes: their names, in the order of the labels.
        wanted: names in the order of the labels to be; names that are numbers, as arrays have them, stand for places.
        source: what the images are from, for messages.

    Raises:
        DataError: a class is none of those that are wanted.
    """
    if _are_numbers(classes) or _are_numbers(wanted):
        classes = wanted[: len(classes)] if len(classes) <= len(wanted) else classes
    unknown = [name for name in classes if name not in wanted]
    if unknown:
        raise DataError(
            f"{show(source)} must hold images of the classes {', '.join(wanted)}, not of {', '.join(unknown)}: rename them, or "
            "take other images."
        )
    places = np.array([wanted.index(name) for name in classes], np.int64)
    return Images(part.pixels, places[part.labels])


def _are_numbers(classes: Sequence[str]) -> bool:
    return list(classes) == [str(i) for i in range(len(classes))]


def save(path: Path, data: ImageData, source: str) -> None:
    """Write a file of images, whole or not at all.

    Args:
        path: the HDF5 file.
        data: what to write.
        source: what they were read from, by name and checksum.
    """
    with writing(path) as file:
        file.attrs["format"], file.attrs["version"], file.attrs["source"] = FORMAT, VERSION, source
        file.attrs["classes"], file.attrs["notes"] = json.dumps(data.classes), json.dumps(data.notes)
        for name, part in (("train", data.train), ("test", data.test)):
            chunks = (min(len(part), 256), *part.pixels.shape[1:])
            file.create_dataset(f"{name}/pixels", data=part.pixels, chunks=chunks, fletcher32=True)
            file.create_dataset(f"{name}/labels", data=part.labels, chunks=part.labels.shape, fletcher32=True)


def load(path: Path) -> ImageData:
    """Read a file of images.

    Raises:
        DataError: it is no such file, or damaged.
    """
    with reading(path, "HDF5 images", "delete it, it is made again") as file:
        said = hdf5_objects.text(file.attrs.get("format")), hdf5_objects.number(file.attrs.get("version"))
        if said != (FORMAT, VERSION):
            raise DataError(f"{path} is HDF5, but not a file of '{FORMAT}', version {VERSION}: delete it.")
        parts = [
            Images(*(hdf5_objects.array(file, f"{name}/{what}") for what in ("pixels", "labels"))) for name in ("train", "test")
        ]
        if any(part.labels.dtype != np.int64 for part in parts):
            raise ValueError("its labels must be int64")
        names = [hdf5_objects.texts(file.attrs.get(key)) for key in ("classes", "notes")]
        if None in names:
            raise ValueError("its classes and notes must be lists of text")
        classes, notes = (tuple(found or ()) for found in names)
        return checked(ImageData(parts[0], parts[1], classes, notes), path)
