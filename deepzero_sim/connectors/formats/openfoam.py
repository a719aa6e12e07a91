"""OpenFOAM's fields at cell centres: `volScalarField`, `volVectorField` and their kin, ASCII and binary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepzero_sim.connectors.formats.base import Content, Format, as_dtype, need_size
from deepzero_sim.errors import ConfigError, InvalidStateError, UnreadableOutputError
from deepzero_sim.types import Array, is_whole

#: Components of a value, by OpenFOAM's name for its kind.
COMPONENTS = {"scalar": 1, "vector": 3, "symmTensor": 6, "tensor": 9}

HEADER = re.compile(rb"FoamFile\s*\{(.*?)\}", re.DOTALL)
KIND = re.compile(rb"\bclass\s+vol(\w+)Field\s*;")
FIELD = re.compile(rb"^internalField\s+(?:uniform\s+([^;]*);|nonuniform\s+List<\w+>\s*(\d+)\s*([({]))", re.MULTILINE)
END = re.compile(rb"\s*;")
SPACES = bytes.maketrans(b"()", b"  ")
END_OF_VECTORS = re.compile(rb"\)\s*\)")


@dataclass(frozen=True)
class _Field:
    """A file, taken apart.

    Args:
        before, after: what stands around the entry `internalField`.
        kind: of a value, such as `vector`.
        scalar: how a binary file holds a number; None if the file is ASCII.
        values: `(cells, components)`, or `(1, components)` if they are uniform.
        uniform: whether one value is said for all.
    """

    before: bytes
    after: bytes
    kind: str
    scalar: np.dtype[np.floating] | None
    values: Array
    uniform: bool


class OpenFoam(Format):
    """`openfoam`: the entry `internalField` of a field file. States have their points in the order of cells.

    Args:
        base: the field file that is written with another `internalField`, so that its boundary conditions are kept; needed for
            inputs only. ASCII or binary, as it says itself.
        components: of a vector (or tensor), one for each channel: `[0, 1]` for x and y; the first ones if None. The others are
            those of `base`.

    Raises:
        ConfigError: there is no such file, or it is no field at cell centres.
    """

    columns: ClassVar[bool] = True

    def __init__(self, base: str | Path | None = None, components: list[int] | None = None) -> None:
        listed = isinstance(components, list | tuple) and all(is_whole(place) for place in components)
        if components is not None and not listed:
            raise ConfigError(f"components must be a list of numbers, such as [0, 1] for x and y, not {components!r}.")
        self._components = components
        if base is not None and not isinstance(base, str | Path):
            raise ConfigError(f"base must be the path of a field file of OpenFOAM, not {base!r}.")
        self._base = None if base is None else _base(Path(base))

    def encode(self, values: Array) -> Content:
        if self._base is None:
            raise ConfigError("the format openfoam needs a field file to write to: name it as base.")
        cells = values.reshape(-1, values.shape[-1])
        whole = np.empty((len(cells), COMPONENTS[self._base.kind]))
        if not self._base.uniform and len(self._base.values) != len(cells):
            raise ConfigError(
                f"base must have as many cells as the state has points, {len(cells)}, not {len(self._base.values)}."
            )
        whole[:] = self._base.values
        whole[:, self._places(values.shape[-1], whole.shape[1])] = cells
        start = f"internalField nonuniform List<{self._base.kind}>\n{len(whole)}\n(".encode()
        return self._base.before + start + _numbers(whole, self._base.scalar) + b")\n;" + self._base.after

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        found = _taken_apart(content)
        if not found.after.rstrip().endswith((b"}", b"//")):
            raise UnreadableOutputError("ends before its boundary conditions do: it is truncated")
        if shape[-1] > found.values.shape[1]:
            raise InvalidStateError(f"holds values of {found.values.shape[1]} components, not {shape[-1]}")
        cells = int(np.prod(shape[:-1]))
        if not found.uniform and len(found.values) != cells:
            raise InvalidStateError(f"holds {len(found.values)} cells, not {cells}")
        values = found.values[:, self._places(shape[-1], found.values.shape[1])]
        return as_dtype(np.broadcast_to(values, (cells, shape[-1])).reshape(shape), dtype)

    def largest(self, values: int) -> int:
        return 256 * values + 2**24  # boundaries may be long, and all components are there

    def _places(self, channels: int, available: int) -> list[int]:
        places = list(range(channels)) if self._components is None else self._components
        fit = len(set(places)) == len(places) == channels and all(place in range(available) for place in places)
        if not fit:
            raise ConfigError(
                f"components must be {channels} different numbers from 0 to {available - 1}, one a channel, not {places}."
            )
        return places


def _base(path: Path) -> _Field:
    try:
        return _taken_apart(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"base must be a field file of OpenFOAM, but {path} cannot be read ({error.strerror}).") from error
    except UnreadableOutputError as error:
        raise ConfigError(f"base must be a field file of OpenFOAM, but {path} {error}.") from error


def _taken_apart(content: bytes) -> _Field:
    header, field = HEADER.search(content), FIELD.search(content)
    kind = None if header is None else KIND.search(header[1])
    if header is None or field is None or kind is None:
        raise UnreadableOutputError("is no field of OpenFOAM with its internalField written out")
    name = kind[1].decode()
    name = name[0].lower() + name[1:]
    if name not in COMPONENTS:
        raise UnreadableOutputError(f"is a field of {name!r}, not of {', '.join(COMPONENTS)}")
    scalar = _scalar(header[1])
    if field[1] is not None:
        values, end = _floats(field[1], 1, COMPONENTS[name]), field.end()
    else:
        components = COMPONENTS[name]
        found = _ascii_list(content, field, components) if scalar is None else _binary_list(content, field, components, scalar)
        values, end = found
        closed = END.match(content, end)
        if closed is None:
            raise UnreadableOutputError("has an internalField that does not end: it is truncated, or garbage")
        end = closed.end()
    return _Field(content[: field.start()], content[end:], name, scalar, values, field[1] is not None)


def _scalar(header: bytes) -> np.dtype[np.floating] | None:
    """How numbers are held, by a file's header; None if as text."""
    if re.search(rb"\bformat\s+binary\s*;", header) is None:
        return None
    order = ">" if b"MSB" in header else "<"
    return np.dtype(f"{order}f4" if b"scalar=32" in header else f"{order}f8")


def _ascii_list(content: bytes, field: re.Match[bytes], components: int) -> tuple[Array, int]:
    """The values of a list as text, `(cells, components)`, and where it ends."""
    cells, start = int(field[2]), field.end()
    if field[3] == b"{":  # one value for all
        end = content.find(b"}", start)
        return np.repeat(_floats(content[start:end], 1, components), cells, axis=0), end + 1
    if components == 1 or cells == 0:
        end = content.find(b")", start)
    else:
        closing = END_OF_VECTORS.search(content, start)
        end = -1 if closing is None else closing.end() - 1
    if end < 0:
        raise UnreadableOutputError("has a list that does not end: it is truncated")
    return _floats(content[start:end], cells, components), end + 1


def _binary_list(content: bytes, field: re.Match[bytes], components: int, scalar: np.dtype[np.floating]) -> tuple[Array, int]:
    """The values of a list as bytes, `(cells, components)`, and where it ends."""
    cells, start = int(field[2]), field.end()
    end = start + cells * components * scalar.itemsize
    if content[end : end + 1] != b")":
        raise UnreadableOutputError(f"has no whole list of {cells} values: it is truncated, or of another format")
    values: Array = np.frombuffer(content[start:end], scalar).reshape(cells, components)
    return values, end + 1


def _floats(text: bytes, cells: int, components: int) -> Array:
    try:
        numbers = np.array(text.translate(SPACES).split(), dtype=np.float64)
    except ValueError as error:
        raise UnreadableOutputError(f"holds something else than numbers ({error})") from error
    need_size(numbers.size, cells * components, "numbers")
    return numbers.reshape(cells, components)


def _numbers(values: Array, scalar: np.dtype[np.floating] | None) -> bytes:
    """The inside of a list."""
    if scalar is not None:
        return values.astype(scalar).tobytes()
    line = "%.17g\n" if values.shape[1] == 1 else f"({' '.join(['%.17g'] * values.shape[1])})\n"
    return b"\n" + ((line * len(values)) % tuple(values.ravel().tolist())).encode()
