"""Decoder of image files to RGB pixels: whatever Pillow reads in eight bits a channel; what is lost on the way is counted."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.errors import DataError, MissingExtraError

#: Formats that are programs to be run (EPS), hold no pixels that Pillow decodes itself, or are no images.
_UNSUPPORTED = {"EPS", "PDF", "BUFR", "GRIB", "HDF5", "MPEG", "WMF", "IPTC"}

#: Modes that become RGB as anyone expects.
_PLAIN = {"1", "L", "P", "RGB", "RGBA", "RGBX", "LA", "PA", "La", "RGBa"}

#: Raw modes of more than eight bits a channel, of which Pillow keeps eight without a word.
_DEEP = re.compile(r"(L|LA|RGB|RGBA|RGBX|RGBa|CMYK|LAB);(12|16|32|64)[A-Z]*")


@cache
def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("reading images", "PIL", "images") from error
    Image.init()
    return Image


@cache
def _formats() -> tuple[str, ...]:
    return tuple(name for name in _pillow().OPEN if name not in _UNSUPPORTED)


def is_image(name: str) -> bool:
    """Tell an image file by the end of its name."""
    return _pillow().registered_extensions().get(PurePosixPath(name).suffix.lower()) in _formats()


class Decoder:
    """Decoder of files of images of one size, which counts what it had to change about them."""

    def __init__(self) -> None:
        self.changes: Counter[str] = Counter()
        self._first: tuple[str, tuple[int, int]] | None = None

    def decode(self, content: bytes, name: str, source: str) -> NDArray[np.uint8]:
        """Decode a file to pixels, uint8 `(H, W, 3)`.

        Args:
            content: Content of the file.
            name: Name of the file.
            source: Name of the source that it is from, for messages.

        Raises:
            DataError: It is no image, or has more than eight bits a channel, or is of another size than the first.
        """
        image_module = _pillow()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", image_module.DecompressionBombWarning)
                with image_module.open(io.BytesIO(content), formats=_formats()) as image:
                    self._require_depth(image, content, name, source)
                    self._require_size(_upright_size(image), name, source)
                    return self._convert(image)
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(f"{source}: {name} does not fit into memory ({error}): take it out.") from error
        except Exception as error:  # Pillow's decoders raise all kinds of them
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{source}: {name} cannot be decoded as an image ({words}): restore it or take it out.") from error

    @staticmethod
    def _require_depth(image: Any, content: bytes, name: str, source: str) -> None:
        bits = _bits(image, content)
        require_data(
            bits <= 8,
            f"{source}: {name} has {bits} bits a channel, and images are kept in 8: convert the images, as only you know "
            "which range they use.",
        )

    def _require_size(self, size: tuple[int, int], name: str, source: str) -> None:
        self._first = self._first or (name, size)
        first = self._first[1]
        require_data(
            size == first,
            f"{source} must hold images of one size, but {name} has {size[0]} x {size[1]} pixels and the first one "
            f"{first[0]} x {first[1]}: resize them.",
        )

    def _convert(self, image: Any) -> NDArray[np.uint8]:
        from PIL import ImageOps  # noqa: PLC0415 - optional

        if getattr(image, "n_frames", 1) > 1:
            self.changes["took the first frame of {} that have several"] += 1
            image.seek(0)
        turned = ImageOps.exif_transpose(image)
        if turned is not image and _orientation(image) not in {None, 1}:
            self.changes["turned {} as their EXIF orientation says"] += 1
        if turned.mode not in _PLAIN:
            self.changes[f"converted {{}} from {turned.mode} to RGB"] += 1
        if turned.has_transparency_data and turned.convert("RGBA").getextrema()[3][0] < 255:
            self.changes["dropped the transparency of {}"] += 1
        return np.asarray(turned.convert("RGB"))


def _orientation(image: Any) -> Any:
    return image.getexif().get(0x0112)


def _upright_size(image: Any) -> tuple[int, int]:
    """Height and width of an image once it is turned as its camera was held."""
    width, height = image.size
    return (width, height) if _orientation(image) in {5, 6, 7, 8} else (height, width)


def _bits(image: Any, content: bytes) -> int:
    """Look up the bits a channel of an image file; 8 where there are no more."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return 16 if "16" in image.mode else 32
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        deep = [match for entry in arguments if isinstance(entry, str) and (match := _DEEP.fullmatch(entry))]
        if deep:
            return int(deep[0].group(2))
        if tile[0] == "SGI16" or (tile[0] in {"ppm", "ppm_plain"} and isinstance(arguments[-1], int) and arguments[-1] > 255):
            return 16
    return header_bits(image.format, content)


def header_bits(form: str | None, content: bytes) -> int:
    """Read the bits a channel from headers of formats whose decoders reduce to eight bits before Pillow sees them."""
    if form == "JPEG2000":  # SIZ marker: its length, 36 bytes of sizes, the number of components, and the bits of the first
        place = content.find(b"\xff\x4f\xff\x51")
        return (content[place + 42] & 0x7F) + 1 if 0 <= place < len(content) - 42 else 8
    if form == "AVIF":
        place = content.find(b"av1C")
        return 10 if 0 <= place < len(content) - 6 and content[place + 6] & 0x40 else 8
    return 8
