"""What stands in an HDF5 file, whoever wrote it: datasets of its own, and attributes in all forms that writers give them.

Everything here says what is wrong by a ValueError in words; callers name the file.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

#: Links that may follow one another on the way to an object.
LINKS = 16

#: Attributes of a netCDF variable whose numbers are not those that it holds.
PACKED = ("scale_factor", "add_offset")

_GIB = 2**30


def find(container: h5py.Group, path: str) -> Any:
    """Find an object of this file, through hard and soft links; never one of another file.

    Args:
        container: a file or a group.
        path: of the object, from there, or from the file's root if it begins with a slash.

    Raises:
        KeyError: there is no such object.
        ValueError: a link leads to another file, or around in a circle.
    """
    place: Any = container.file["/"] if path.startswith("/") else container
    names, links = _parts(path), 0
    while names:
        name = names.pop(0)
        link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            raise KeyError(f"there is no {path}")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > LINKS:
                raise ValueError(f"{path} is a link that leads back to itself")
            place = container.file["/"] if link.path.startswith("/") else place
            names = _parts(link.path) + names
        elif isinstance(link, h5py.HardLink):
            place = place[name]
        else:
            raise ValueError(f"{path} is a link to another file, which is not followed")  # noqa: TRY004 - of no type, but of a file
    return place


def _parts(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def dataset(container: h5py.Group, path: str) -> h5py.Dataset:
    """Find a dataset whose values were written, all of them, and into this file.

    Args:
        container: a file or a group.
        path: of the dataset.

    Raises:
        KeyError: there is no such object.
        ValueError: it is something else, lies in other files, was not written to its end, or does not fit into memory.
    """
    found = find(container, path)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{path} is no dataset")  # noqa: TRY004 - as above
    if found.shape is None:
        raise ValueError(f"{path} holds no array")
    if found.is_virtual or found.external:
        raise ValueError(f"{path} has its values in other files, which are not read")
    claimed = math.prod(found.shape) * found.dtype.itemsize
    if claimed > memory():
        raise ValueError(
            f"{path} of shape {found.shape} would take {claimed / _GIB:,.0f} GiB, more than this machine's memory of "
            f"{memory() / _GIB:,.0f} GiB"
        )
    _require_written(found, path, claimed)
    return found


def _require_written(found: h5py.Dataset, path: str, claimed: int) -> None:
    """What was never written is read as zeros, without a word."""
    if not claimed:
        return
    if found.chunks is None:
        if found.id.get_storage_size() < claimed:
            raise ValueError(f"{path} was never written")
        return
    chunks = math.prod(-(-size // chunk) for size, chunk in zip(found.shape, found.chunks, strict=True))
    written = found.id.get_num_chunks()
    if written < chunks:
        raise ValueError(f"{chunks - written} of {chunks} chunks of {path} were never written")


def array(container: h5py.Group, path: str, place: int | None = None) -> NDArray[Any]:
    """Read a dataset into memory, in this machine's byte order; see :func:`dataset`.

    Args:
        container: a file or a group.
        path: of the dataset.
        place: on its first axis, of which alone the values are read; all of it if None.

    Raises:
        ValueError: values are packed or marked as missing, besides what :func:`dataset` refuses.
    """
    found = dataset(container, path)
    packed = next((key for key in PACKED if key in found.attrs), None)
    if packed is not None:
        raise ValueError(f"{path} holds packed numbers, as its attribute {packed} says")
    values = np.asarray(found[() if place is None else place])
    if values.dtype.kind in "fiuc" and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    for key in ("_FillValue", "missing_value"):
        missing = number(found.attrs.get(key))
        if missing is not None and values.dtype.kind in "fiu" and (values == values.dtype.type(missing)).any():
            raise ValueError(f"{path} has values that are missing ({key} is {missing:g})")
    return values


def memory() -> int:
    """Bytes of this machine's main memory."""
    if not hasattr(os, "sysconf"):
        return 2**40
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _single(value: Any) -> Any:
    """The one entry of an array of one; anything else as it is."""
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value


def text(value: Any) -> str | None:
    """An attribute as text, of whatever length, encoding and padding it was written; None if it is none."""
    value = _single(value)
    if isinstance(value, str):  # what is no UTF-8 comes in surrogates
        value = value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        return None
    written: bytes = value.partition(b"\0")[0]  # what lies behind it in a buffer of C's is no part of it
    try:
        decoded = written.decode()
    except UnicodeDecodeError:
        decoded = written.decode("latin-1")
    return decoded.rstrip(" ")


def texts(value: Any) -> tuple[str, ...] | None:
    """An attribute as a list of texts: an array of them, a JSON list, or a single one; None if it is none of these.

    What is empty or not there is a list without entries.
    """
    if _is_empty(value):
        return ()
    written = text(value)
    if written is not None:
        parsed = json_of(written)
        if isinstance(parsed, list):
            return tuple(parsed) if all(isinstance(entry, str) for entry in parsed) else None
        single = parsed if isinstance(parsed, str) else written
        return (single,) if single else ()
    if isinstance(value, np.ndarray):
        entries = [text(entry) for entry in value.reshape(-1)]
        found = tuple(entry for entry in entries if entry is not None)
        return found if len(found) == len(entries) else None
    return None


def number(value: Any) -> float | None:
    """An attribute as a number, of whatever type it was written; None if it is none."""
    value = _single(value)
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if is_real else None


def numbers(value: Any) -> NDArray[np.float64] | None:
    """An attribute as an array of numbers: an array of any type, or a JSON list; None if it is neither.

    What is empty or not there is an array without entries.
    """
    if _is_empty(value):
        return np.empty(0)
    written = text(value)
    if written is not None:
        value = json_of(written)
    try:
        found = np.atleast_1d(np.asarray(value))
    except ValueError:  # lists of several lengths
        return None
    return found.astype(np.float64) if found.dtype.kind in "fiu" else (np.empty(0) if not found.size else None)


def _is_empty(value: Any) -> bool:
    return value is None or isinstance(value, h5py.Empty) or (isinstance(value, np.ndarray) and not value.size)


def json_of(value: Any) -> Any:
    """What an attribute holds as JSON; None if it holds none."""
    written = text(value)
    try:
        return None if written is None else json.loads(written)
    except (ValueError, RecursionError):
        return None
