"""Images by class: `train/<class>/<image>` and `test/<class>/<image>`, as they are met in a source."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.datasets.decoding import Decoder, is_image
from deepzero_sim.datasets.image_files import Entry
from deepzero_sim.datasets.images import ImageData, Images
from deepzero_sim.datasets.left_out import LeftOut
from deepzero_sim.errors import DataError

PARTS = ("train", "test")


class ClassFolders:
    """Images by class, taken from a source one by one.

    Args:
        source: what they are from, for messages.
        left_out: where is counted what is not taken.
    """

    def __init__(self, source: str, left_out: LeftOut) -> None:
        self._source, self._left_out, self._decoder = source, left_out, Decoder()
        self._found: dict[tuple[str, str], dict[str, NDArray[np.uint8]]] = {}
        self._labels: set[str] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def see(self, entry: Entry) -> None:
        """Know a class by its folder, though it may hold no image."""
        parts = PurePosixPath(entry.name).parts
        folder = parts if entry.kind == "folder" else parts[:-1]
        if len(folder) >= 2 and folder[-2].lower() in PARTS and not any(part.startswith((".", "__MACOSX")) for part in folder):
            self._labels.add(unicodedata.normalize("NFC", folder[-1]))

    def take(self, entry: Entry, content: bytes) -> None:
        """Decode an image that lies in a class's folder.

        Raises:
            DataError: it cannot be used, or all together do not fit into memory.
        """
        place = _place(entry.name)
        assert place is not None
        pixels = self._decoder.decode(content, entry.name, self._source)
        self._bytes += pixels.nbytes
        if self._bytes > hdf5_objects.memory():
            raise DataError(
                f"{self._source} holds more images than fit into this machine's memory: take fewer or smaller ones."
            )
        images = self._found.setdefault(place, {})
        if entry.name in images:
            self._left_out.add("that others of the same name replace", entry.name)
        images[entry.name] = pixels

    def data(self) -> ImageData:
        """All images, by class and in the order of their names.

        Raises:
            DataError: there are none, or none of a class.
        """
        if not self._found:
            raise DataError(
                f"{self._source} must hold images as train/<class>/<image> and test/<class>/<image>, but holds none"
                f"{self._left_out.in_parentheses()}: check it."
            )
        classes = sorted(self._labels)
        for part in PARTS:
            missing = [label for label in classes if (part, label) not in self._found]
            if missing:
                raise DataError(
                    f"{self._source} has no images of {', '.join(missing)} in {part}/{self._left_out.in_parentheses()}: every "
                    "class must be there to train and to test on."
                )
        train, test = (self._images(part, classes) for part in PARTS)
        changes = [words.format(_count(count)) for words, count in self._decoder.changes.items()]
        return ImageData(train, test, tuple(classes), (*self._left_out.sentences(), *changes))

    def _images(self, part: str, classes: list[str]) -> Images:
        by_class = [self._found[part, label] for label in classes]
        pixels = np.stack([images[name] for images in by_class for name in sorted(images)])
        labels = np.repeat(np.arange(len(classes)), [len(images) for images in by_class])
        return Images(pixels, labels)


def _count(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"


def why_not(entry: Entry, known: Collection[str] = ()) -> str | None:
    """Why an entry is no image of a class, in words that continue "left out 3 files"; None if it is one.

    Args:
        entry: any but a folder.
        known: names that are of use to somebody else.
    """
    name = PurePosixPath(entry.name)
    if any(part.startswith(".") or part == "__MACOSX" for part in name.parts) or name.name.lower() in _OF_SYSTEMS:
        return "of the system"
    if entry.kind == "link":
        return "that are links to nothing, or in an archive"
    if entry.kind == "special":
        return "that are pipes, sockets or devices"
    if name.name in known or not is_image(name.name):
        return "that are not read as images"
    return None if _place(entry.name) else "that lie in no train/<class>/ or test/<class>/"


_OF_SYSTEMS = {"thumbs.db", "desktop.ini", "ehthumbs.db"}


def _place(name: str) -> tuple[str, str] | None:
    """Part and class of an image; None of one that lies elsewhere."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or parts[-3].lower() not in PARTS:
        return None
    return parts[-3].lower(), unicodedata.normalize("NFC", parts[-2])
