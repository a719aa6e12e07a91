"""Images as arrays in an npz file, under any of the usual names: `train_x`, `x_train`, `train_images` and so on."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import machine
from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.datasets.images.labelled_images import ImageData, Images
from deepzero_sim.errors import DataError

#: Meanings of the words that names of arrays consist of.
_MEANINGS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "x": "x",
    "image": "x",
    "images": "x",
    "data": "x",
    "pixels": "x",
    "y": "y",
    "label": "y",
    "labels": "y",
    "target": "y",
    "targets": "y",
}

#: Errors of numpy and the standard library where an npz file is damaged or something else.
_UNREADABLE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)

_WANTED = ("train_x", "train_y", "test_x", "test_y")

#: Channels that an image may have, by which their axis is found.
_CHANNELS = range(1, 5)


def read(path: Path) -> ImageData:
    """Read the images of a file; classes are named by their numbers.

    Raises:
        DataError: The file is damaged or holds something else.
    """
    try:
        arrays, others = _read_arrays(path)
    except _UNREADABLE as error:
        words = error.args[0] if isinstance(error, KeyError) else (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{show(path)} must hold train_x and test_x, uint8 (N, H, W, C), with train_y and test_y, but cannot be read so "
            f"({words}): check the file."
        ) from error
    notes = [f"left out {len(others)} arrays ({', '.join(others)})"] if others else []
    train, test = (_images(arrays, part, path, notes) for part in ("train", "test"))
    labels = np.unique(train.labels)
    require_data(
        np.array_equal(labels, np.arange(len(labels))),
        f"{show(path)} must have training images of every class, numbered from 0 without gaps, but train_y holds "
        f"{len(labels)} classes from {labels.min()} to {labels.max()}: number them anew.",
    )
    return ImageData(train, test, tuple(map(str, range(len(labels)))), tuple(dict.fromkeys(notes)))


def _read_arrays(path: Path) -> tuple[dict[str, NDArray[np.generic]], list[str]]:
    """Read the arrays that are wanted, and the names of the others."""
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name in sizes:
        names[_meaning(name)].append(name)
    for wanted in _WANTED:
        if len(names[wanted]) != 1:
            there = " and ".join(names[wanted]) or f"only {', '.join(sizes) or 'nothing'}"
            raise KeyError(f"one array must be {wanted}, but there is {there}")
    chosen = {wanted: names[wanted][0] for wanted in _WANTED}
    claimed = sum(sizes[name] for name in chosen.values())
    if claimed > machine.memory():
        raise ValueError(f"its arrays take {claimed:,} bytes, more than this machine's memory")
    with np.load(path, allow_pickle=False) as file:
        return {wanted: np.asarray(file[name]) for wanted, name in chosen.items()}, sorted({*sizes} - {*chosen.values()})


def _meaning(name: str) -> str:
    """Translate a name to one of those that are wanted, or return it as it is."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    meant = {_MEANINGS.get(word, word) for word in words}
    return next((wanted for wanted in _WANTED if meant == {*wanted.split("_")}), name)


def _images(arrays: dict[str, NDArray[np.generic]], part: str, path: Path, notes: list[str]) -> Images:
    labels, pixels = arrays[f"{part}_y"], arrays[f"{part}_x"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    require_data(
        np.issubdtype(labels.dtype, np.integer) and labels.size > 0,
        f"{show(path)} must have labels that are whole numbers, not {labels.dtype} {labels.shape}.",
    )
    require_data(
        labels.ndim == 1, f"{show(path)} must have a label for each image, not labels of shape {labels.shape}: check {part}_y."
    )
    return Images(_move_channels_last(pixels, path, notes), labels.astype(np.int64))


def _move_channels_last(pixels: NDArray[np.generic], path: Path, notes: list[str]) -> NDArray[np.uint8]:
    where = show(path)
    require_data(
        pixels.dtype == np.uint8,
        f"{where} must hold pixels as uint8 from 0 to 255, not {pixels.dtype}: convert them, as only you know their range.",
    )
    if pixels.ndim == 3:
        notes.append("took images (N, H, W) for grey ones")
        return np.asarray(pixels[..., None], np.uint8)
    require_data(
        pixels.ndim == 4, f"{where} must hold images (N, H, W, C), (N, C, H, W) or (N, H, W), not {pixels.shape}: reshape them."
    )
    first, last = (pixels.shape[axis] in _CHANNELS for axis in (1, 3))
    if first and not last:
        notes.append("moved the channels of (N, C, H, W) behind height and width")
        return np.ascontiguousarray(np.moveaxis(pixels, 1, -1), np.uint8)
    require_data(
        not (first and last) or pixels.shape[2] in _CHANNELS,
        f"{where} holds images of shape {pixels.shape[1:]}, whose channels may be the first or the last: give each axis of "
        "height and width five pixels or more, or crop one.",
    )
    return np.asarray(pixels, np.uint8)
