"""Images by class: `train/<class>/<image>` and `test/<class>/<image>`, in a folder or a tar of one."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.datasets.images import ImageData, Images
from deepzero_sim.errors import DataError, MissingExtraError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
_PARTS = ("train", "test")


def read(source: Path) -> ImageData:
    """The images of a folder or a tar, in the order of their names.

    Raises:
        DataError: the source is damaged or not laid out so, a class is missing, or images are of several sizes.
        MissingExtraError: Pillow is not installed.
    """
    found: dict[tuple[str, str], dict[str, NDArray[np.uint8]]] = {}
    size: tuple[int, ...] | None = None
    for name, content in _files(source):
        place = _place(name)
        if place is None:
            continue
        pixels = _decoded(content, f"{source}: {name}")
        size = size or pixels.shape
        if pixels.shape != size:
            raise DataError(
                f"{source} must hold images of one size, but {name} has {pixels.shape[0]} x {pixels.shape[1]} pixels and the "
                f"first one {size[0]} x {size[1]}: resize them."
            )
        found.setdefault(place, {})[name] = pixels
    classes = sorted({label for _, label in found})
    _require_all(source, found.keys(), classes)
    train, test = (_images(found, part, classes) for part in _PARTS)
    return ImageData(train, test, tuple(classes))


def _require_all(source: Path, found: Any, classes: list[str]) -> None:
    if not classes:
        raise DataError(
            f"{source} must hold images as train/<class>/<image> and test/<class>/<image>, but holds none: check it."
        )
    for part in _PARTS:
        missing = [label for label in classes if (part, label) not in found]
        if missing:
            raise DataError(
                f"{source} has no images of {', '.join(missing)} in {part}/: every class must be there to train and to test on."
            )


def _images(found: dict[tuple[str, str], dict[str, NDArray[np.uint8]]], part: str, classes: list[str]) -> Images:
    by_class = [found[part, label] for label in classes]
    pixels = np.stack([images[name] for images in by_class for name in sorted(images)])
    labels = np.repeat(np.arange(len(classes)), [len(images) for images in by_class])
    return Images(pixels, labels)


def _place(name: str) -> tuple[str, str] | None:
    """Part and class of an image; None of other files."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in _SUFFIXES or path.name.startswith(".") or len(path.parts) < 3:
        return None
    part, label = path.parts[-3:-1]
    return (part, label) if part in _PARTS else None


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.suffix.lower() in _SUFFIXES:
                yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name, file.read()
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise DataError(
            f"{source} cannot be read to its end as an archive ({error}): it is cut short; fetch it again."
        ) from error


def _decoded(content: bytes, name: str) -> NDArray[np.uint8]:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("reading images", "PIL", "images") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be decoded as an image ({error}): restore it or take it out.") from error
