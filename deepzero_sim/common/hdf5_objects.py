"""Objects of an HDF5 file, whoever wrote it: its own datasets, and attributes in all forms that writers give them.

Errors are ValueErrors in words; callers add the name of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.machine import memory

#: Links that may follow one another on the way to an object.
LINKS = 16

#: Attributes of a netCDF variable whose numbers are not those that it holds.
PACKED = ("scale_factor", "add_offset")

_GIB = 2**30


def find(container: h5py.Group, path: str) -> Any:
    """Find an object of this file, through hard and soft links; never one of another file.

    Args:
        container: File or group to start from.
        path: Path of the object from there, or from the file's root if it begins with a slash.

    Raises:
        KeyError: There is no such object.
        ValueError: A link leads to another file, or around in a circle.
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
            require(links <= LINKS, f"{path} is a link that leads back to itself")
            place = container.file["/"] if link.path.startswith("/") else place
            names = _parts(link.path) + names
        else:
            require(isinstance(link, h5py.HardLink), f"{path} is a link to another file, which is not followed")
            place = place[name]
    return place


def require(holds: bool, otherwise: str) -> None:
    """Refuse what a file holds by a ValueError unless a condition holds, in words that follow the file's name."""
    if not holds:
        raise ValueError(otherwise)


def _parts(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def dataset(container: h5py.Group, path: str, on_demand: bool = False) -> h5py.Dataset:
    """Find a dataset whose values were written, all of them, and into this file.

    Args:
        container: File or group to start from.
        path: Path of the dataset from there.
        on_demand: True for one that is read in parts, and so may be larger than memory.

    Raises:
        KeyError: There is no such object.
        ValueError: It is something else, lies in other files, was not written to its end, or does not fit into memory.
    """
    values = find(container, path)
    require(isinstance(values, h5py.Dataset), f"{path} is no dataset")
    require(values.shape is not None, f"{path} holds no array")
    require(not values.is_virtual and not values.external, f"{path} has its values in other files, which are not read")
    size = math.prod(values.shape) * values.dtype.itemsize
    require(
        size <= memory() or (on_demand and not _missing_chunks(values)),
        f"{path} of shape {values.shape} would take {size / _GIB:,.0f} GiB, more than this machine's memory of "
        f"{memory() / _GIB:,.0f} GiB",
    )
    _require_written(values, path, size)
    return values


def _require_written(values: h5py.Dataset, path: str, size: int) -> None:
    """Refuse values that were never written: HDF5 reads them as zeros, without a word."""
    if not size:
        return
    if values.chunks is None:
        require(values.id.get_storage_size() >= size, f"{path} was never written")
        return
    missing, chunks = _missing_chunks(values), _count_chunks(values)
    require(missing <= 0, f"{missing} of {chunks} chunks of {path} were never written")


def _missing_chunks(values: h5py.Dataset) -> int:
    """Count the chunks of a dataset that were never written; none if it is in one piece."""
    return 0 if values.chunks is None else max(0, _count_chunks(values) - int(values.id.get_num_chunks()))


def _count_chunks(values: h5py.Dataset) -> int:
    return math.prod(-(-length // chunk) for length, chunk in zip(values.shape, values.chunks, strict=True))


def array(container: h5py.Group, path: str, place: int | None = None) -> NDArray[Any]:
    """Read a dataset into memory, in this machine's byte order, or one place on its first axis; see :func:`dataset`.

    Raises:
        ValueError: Values are packed or marked as missing, or :func:`dataset` refuses them.
    """
    source = dataset(container, path)
    missing = missing_values(source)
    values = np.asarray(source[() if place is None else place])
    if values.dtype.kind in "fiuc" and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    require_none_missing(values, missing, path)
    return values


def missing_values(source: h5py.Dataset) -> dict[str, float]:
    """Read the numbers that stand for missing values of a dataset, by attribute.

    Raises:
        ValueError: Its numbers are packed.
    """
    packed = next((key for key in PACKED if key in source.attrs), None)
    require(packed is None, f"{source.name.lstrip('/')} holds packed numbers, as its attribute {packed} says")
    found = {key: number(source.attrs.get(key)) for key in ("_FillValue", "missing_value")}
    return {key: value for key, value in found.items() if value is not None}


def require_none_missing(values: NDArray[Any], missing: Mapping[str, float], path: str) -> None:
    """Refuse values among which some are marked as missing; see :func:`missing_values`.

    Raises:
        ValueError: Some are.
    """
    for key, value in missing.items() if values.dtype.kind in "fiu" else ():
        absent = bool(are_missing(values, value).any())
        require(not absent, f"{path} has values that are missing ({key} is {value:g})")


def are_missing(values: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Mark the values that are the number that stands for missing ones; none if their type does not have that number."""
    kind, largest = values.dtype, np.finfo(values.dtype).max if values.dtype.kind == "f" else np.inf
    rounded = kind.type(value) if kind.kind == "f" and abs(value) <= largest else value
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values == rounded)


def _single(value: Any) -> Any:
    """Unpack the entry of an array of one; return anything else as it is."""
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value


def text(value: Any) -> str | None:
    """Convert an attribute to text, of whatever length, encoding and padding it was written; None if it is none."""
    value = _single(value)
    if isinstance(value, str):  # what is no UTF-8 comes in surrogates
        value = value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        return None
    written: bytes = value.partition(b"\0")[0]  # the rest of a buffer of C's is no part of the text
    try:
        decoded = written.decode()
    except UnicodeDecodeError:
        decoded = written.decode("latin-1")
    return decoded.rstrip(" ")


def texts(value: Any) -> tuple[str, ...] | None:
    """Convert an attribute to texts: an array of them, a JSON list, or a single one; None if it is none of these.

    An attribute that is empty or missing has no entries.
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
        return None if None in entries else tuple(entry for entry in entries if entry is not None)
    return None


def number(value: Any) -> float | None:
    """Convert an attribute to a number, of whatever type it was written; None if it is none."""
    value = _single(value)
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if is_real else None


def numbers(value: Any) -> NDArray[np.float64] | None:
    """Convert an attribute to an array of numbers: an array of any type, or a JSON list; None if it is neither.

    An attribute that is empty or missing has no entries.
    """
    if _is_empty(value):
        return np.empty(0)
    written = text(value)
    if written is not None:
        value = json_of(written)
    try:
        values = np.atleast_1d(np.asarray(value))
    except ValueError:  # lists of several lengths
        return None
    return values.astype(np.float64) if values.dtype.kind in "fiu" else (np.empty(0) if not values.size else None)


def _is_empty(value: Any) -> bool:
    return value is None or isinstance(value, h5py.Empty) or (isinstance(value, np.ndarray) and not value.size)


def json_of(value: Any) -> Any:
    """Parse an attribute as JSON; None if it holds none."""
    written = text(value)
    try:
        return None if written is None else json.loads(written)
    except (ValueError, RecursionError):
        return None
