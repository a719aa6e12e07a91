"""Images by class, as `train/<class>/<image>` and `test/<class>/<image>`, and the files beside them, which are skipped."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import machine
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.words import count_of
from deepzero_sim.datasets.images.archives import Entry
from deepzero_sim.datasets.images.decoder import Decoder, is_image
from deepzero_sim.datasets.images.labelled_images import ImageData, Images

PARTS = ("train", "test")

#: Kinds of files that a sentence lists.
LISTED = 5

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}


class SkippedFiles:
    """Count of the files that are not used, by reason."""

    def __init__(self) -> None:
        self._kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, reason: str, name: str) -> None:
        """Count a file.

        Args:
            reason: Reason in words that continue "left out 3 files".
            name: Name of the file.
        """
        path = PurePosixPath(name)
        kind = "._*" if path.name.startswith("._") else path.suffix.lower() or path.name
        self._kinds[reason][kind] += 1

    def sentences(self) -> list[str]:
        """Write a sentence for each reason, such as "left out 3 files that are not read as images (.txt 2, README 1)"."""
        sentences = []
        for reason, kinds in self._kinds.items():
            total = kinds.total()
            listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(LISTED))
            more = ", ..." if len(kinds) > LISTED else ""
            sentences.append(f"left out {total} {'file' if total == 1 else 'files'} {reason} ({listed}{more})")
        return sentences

    def in_parentheses(self) -> str:
        """Join all sentences, to be put behind what is missing; empty if nothing was skipped."""
        return f" ({'; '.join(self.sentences())})" if self._kinds else ""


class ClassFolders:
    """Images by class, collected from a source one by one.

    Args:
        source: Name of the source, for messages.
        skipped: Count of skipped files, which duplicates are added to.
    """

    def __init__(self, source: str, skipped: SkippedFiles) -> None:
        self._source, self._skipped, self._decoder = source, skipped, Decoder()
        self._images: dict[tuple[str, str], dict[str, NDArray[np.uint8]]] = {}
        self._labels: set[str] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._images.values()))

    def add_class(self, entry: Entry) -> None:
        """Add the class of an entry's folder, though it may hold no image."""
        parts = PurePosixPath(entry.name).parts
        folder = parts if entry.kind == "folder" else parts[:-1]
        if len(folder) >= 2 and folder[-2].lower() in PARTS and not any(part.startswith((".", "__MACOSX")) for part in folder):
            self._labels.add(unicodedata.normalize("NFC", folder[-1]))

    def add_image(self, entry: Entry, content: bytes) -> None:
        """Decode an image that lies in a class's folder, and add it.

        Raises:
            DataError: It cannot be used, or all together do not fit into memory.
        """
        place = _part_and_class(entry.name)
        assert place is not None
        pixels = self._decoder.decode(content, entry.name, self._source)
        self._bytes += pixels.nbytes
        require_data(
            self._bytes <= machine.memory(),
            f"{self._source} holds more images than fit into this machine's memory: take fewer or smaller ones.",
        )
        images = self._images.setdefault(place, {})
        if entry.name in images:
            self._skipped.add("that others of the same name replace", entry.name)
        images[entry.name] = pixels

    def data(self) -> ImageData:
        """Assemble all images, by class and in the order of their names.

        Raises:
            DataError: There are none, or none of a class.
        """
        require_data(
            bool(self._images),
            f"{self._source} must hold images as train/<class>/<image> and test/<class>/<image>, but holds none"
            f"{self._skipped.in_parentheses()}: check it.",
        )
        classes = sorted(self._labels)
        for part in PARTS:
            missing = [label for label in classes if (part, label) not in self._images]
            require_data(
                not missing,
                f"{self._source} has no images of {', '.join(missing)} in {part}/{self._skipped.in_parentheses()}: every "
                "class must be there to train and to test on.",
            )
        train, test = (self._stack(part, classes) for part in PARTS)
        changes = [words.format(count_of(count, "image")) for words, count in self._decoder.changes.items()]
        return ImageData(train, test, tuple(classes), (*self._skipped.sentences(), *changes))

    def _stack(self, part: str, classes: list[str]) -> Images:
        by_class = [self._images[part, label] for label in classes]
        pixels = np.stack([images[name] for images in by_class for name in sorted(images)])
        labels = np.repeat(np.arange(len(classes)), [len(images) for images in by_class])
        return Images(pixels, labels)


def reason_to_skip(entry: Entry) -> str | None:
    """Say why an entry is no image of a class, in words that continue "left out 3 files"; None if it is one.

    Args:
        entry: Any entry but a folder.
    """
    name = PurePosixPath(entry.name)
    if any(part.startswith(".") or part == "__MACOSX" for part in name.parts) or name.name.lower() in _SYSTEM_FILES:
        return "of the system"
    if entry.kind == "link":
        return "that are links to nothing, or in an archive"
    if entry.kind == "special":
        return "that are pipes, sockets or devices"
    if not is_image(name.name):
        return "that are not read as images"
    return None if _part_and_class(entry.name) else "that lie in no train/<class>/ or test/<class>/"


def _part_and_class(name: str) -> tuple[str, str] | None:
    """Split an image's path into part and class; None if it lies elsewhere."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or parts[-3].lower() not in PARTS:
        return None
    return parts[-3].lower(), unicodedata.normalize("NFC", parts[-2])
