"""OpenFOAM's fields at cell centres: `volScalarField`, `volVectorField` and their kin, ASCII and binary, compressed or not."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import LARGEST_BASE, Content, Format, as_dtype, need_size
from deepzero_sim.connectors.formats.numbers import parse_numbers
from deepzero_sim.connectors.formats.openfoam_dictionary import NUMBERS, Dictionary, Entry, List, has_macros, without_comments
from deepzero_sim.connectors.programs.paths import read_file
from deepzero_sim.errors import ConfigError, InvalidStateError, UnreadableOutputError

#: Components of a value, by OpenFOAM's name for its kind.
COMPONENTS = {kind: NUMBERS[kind] for kind in ("scalar", "vector", "symmTensor", "tensor")}

CLASS = re.compile(r"vol(\w+)Field")
ARCH = re.compile(r"(LSB|MSB);label=(32|64);scalar=(32|64)")
SPACES = bytes.maketrans(b"()", b"  ")

#: Directives that may bring entries from other files; those of OpenFOAM itself say nothing of an internalField.
INCLUDES = (b"#include", b"#sinclude", b"#includeIfPresent")
CONDITIONS = (b"#if", b"#ifeq")

#: What is, or may bring, a reference to the internalField.
REFERENCE = re.compile(rb"internalField|#(?:include|sinclude|includeIfPresent)\b")

GZIP = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _NotWrittenOutError(UnreadableOutputError):
    """The internalField has a value that only OpenFOAM can tell."""


@dataclass(frozen=True)
class _Values:
    """What an internalField says.

    Args:
        cells: how many values; None if one is said for all.
        rows: `(cells, components)`, or `(1, components)` if all are the same.
    """

    cells: int | None
    rows: Array


@dataclass(frozen=True)
class _Field:
    """A field file.

    Args:
        file: all of it.
        entries: of the file, without those of their own.
        kind: of a value, such as `vector`.
        scalar: how a binary file holds a number; None if the file is ASCII.
    """

    file: Dictionary
    entries: tuple[Entry, ...]
    kind: str
    scalar: np.dtype[np.floating] | None

    @property
    def internal(self) -> Entry | None:
        """The entry `internalField` that counts: the last one."""
        return next((entry for entry in reversed(self.entries) if entry.keyword == b"internalField"), None)

    @property
    def components(self) -> int:
        """Numbers in a value."""
        return COMPONENTS[self.kind]

    def around(self) -> tuple[bytes, bytes]:
        """Split the file where another internalField belongs.

        It takes the place of the present one. Where that is referred to (`value $internalField;`), may be in an included file,
        or depends on a condition, it stays, and the other one comes last: OpenFOAM takes the last, and has evaluated all
        references by then.
        """
        content, entry = self.file.content, self.internal
        if entry is not None and not self._is_referred_to(entry):
            return content[: entry.start], content[entry.end :]
        mode = b"#inputMode merge\n" if b"#inputMode" in content else b""  # in others the first one may count
        return content + (b"" if content.endswith(b"\n") else b"\n") + mode, b"\n"

    def _is_referred_to(self, entry: Entry) -> bool:
        after = self.file.content[entry.end :]
        return REFERENCE.search(after) is not None or b"#inputMode" in self.file.content or self._is_overridden(entry)

    def _is_overridden(self, entry: Entry) -> bool:
        """Tell whether directives may put another internalField in place of this one."""
        later = [other.keyword for other in self.entries if other.start > entry.start]
        conditional = any(other.keyword in CONDITIONS for other in self.entries)
        return conditional or any(word in INCLUDES or word.startswith(b"$") for word in later)

    def values(self) -> _Values:
        """Read the internalField.

        Raises:
            _NotWrittenOutError: it must be evaluated, or may be in another file.
            UnreadableOutputError: it is none.
        """
        entry = self.internal
        if entry is None:
            raise _NotWrittenOutError("is no field of OpenFOAM with its internalField written out, but includes other files")
        if self._is_overridden(entry):
            raise _NotWrittenOutError("is no field of OpenFOAM with its internalField written out: it depends on directives")
        word, place = self.file.word(entry.value)
        if not entry.is_dictionary and word == b"nonuniform" and (found := self.file.list_at(place)):
            return self._listed(found, entry)
        text = b"" if entry.is_dictionary else self.file.text(entry)
        if has_macros(text):
            shown = text[:60].decode(errors="replace")
            raise _NotWrittenOutError(
                f"is no field of OpenFOAM with its internalField written out: it says {shown!r}, which OpenFOAM evaluates"
            )
        if word != b"uniform":
            raise UnreadableOutputError("is no field of OpenFOAM with its internalField written out as uniform or nonuniform")
        return _Values(None, _rows(text.removeprefix(word), 1, self.components))

    def _listed(self, found: List, entry: Entry) -> _Values:
        content = self.file.content
        if self.file.after_gap(found.end) != entry.end - 1:
            raise UnreadableOutputError("has an internalField that is more than a list: it is garbage, or of another size")
        if found.kind not in (None, self.kind):
            raise UnreadableOutputError(f"is a field of {self.kind!r}, but holds a list of {found.kind!r}")
        inside = content[found.start : found.end - 1] if found.opening else b""
        if found.opening == b"(" and self.scalar is not None and found.count is not None:
            rows: Array = np.frombuffer(inside, self.scalar).reshape(found.count, self.components)
            return _Values(found.count, rows)
        text = without_comments(inside) if b"/" in inside else inside
        if found.opening == b"{":
            return _Values(found.count, _rows(text, 1, self.components))
        rows = _rows(text, found.count, self.components)
        return _Values(len(rows), rows)


class OpenFoam(Format):
    """`openfoam`: the entry `internalField` of a field file. States have their points in the order of cells.

    Args:
        base: the field file that is written with another `internalField`, so that its boundary conditions are kept; needed for
            inputs only. ASCII or binary, as it says itself, and compressed or not: where `U` is named and only `U.gz` is there,
            that is meant.
        components: of a vector (or tensor), one for each channel: `[0, 1]` for x and y; the first ones if None. The others are
            those of `base`.

    Raises:
        ConfigError: there is no such file, or it is no field at cell centres.
    """

    columns: ClassVar[bool] = True
    endings: ClassVar[tuple[str, ...]] = ("", ".gz")

    def __init__(self, base: str | Path | None = None, components: list[int] | None = None) -> None:
        listed = isinstance(components, list | tuple) and all(is_integer(place) for place in components)
        if components is not None and not listed:
            raise ConfigError(f"components must be a list of numbers, such as [0, 1] for x and y, not {components!r}.")
        self._components = components
        if base is not None and not isinstance(base, str | Path):
            raise ConfigError(f"base must be the path of a field file of OpenFOAM, not {base!r}.")
        self._base = None if base is None else _Base(Path(base))

    def encode(self, values: Array) -> Content:
        if self._base is None:
            raise ConfigError("the format openfoam needs a field file to write to: name it as base.")
        field = self._base.field
        cells = values.reshape(-1, values.shape[-1])
        places = self._places(values.shape[-1], field.components)
        whole = self._base.rows(len(cells), [place for place in range(field.components) if place not in places])
        whole[:, places] = cells
        start = f"internalField nonuniform List<{field.kind}>\n{len(whole)}\n(".encode()
        return self._base.before + start + _numbers(whole, field.scalar) + b")\n;" + self._base.after

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        cells = int(np.prod(shape[:-1]))
        field = _field(_uncompressed(content, self.largest(int(np.prod(shape)))))
        if not any(entry.keyword == b"boundaryField" for entry in field.entries):
            raise UnreadableOutputError("ends before its boundary conditions do: it is truncated")
        found = field.values()
        if shape[-1] > field.components:
            raise InvalidStateError(f"holds values of {field.components} components, not {shape[-1]}")
        if found.cells not in (None, cells):
            raise InvalidStateError(f"holds {found.cells} cells, not {cells}")
        values = found.rows[:, self._places(shape[-1], field.components)]
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


class _Base:
    """The file that others are made from.

    Args:
        path: where it lies, perhaps with `.gz` behind.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.field = _field(_uncompressed(_content(path), LARGEST_BASE))
            self.before, self.after = self.field.around()
            self._values: _Values | _NotWrittenOutError = self._read()
        except OSError as error:
            raise ConfigError(
                f"base must be a field file of OpenFOAM, but {path} cannot be read ({error.strerror})."
            ) from error
        except UnreadableOutputError as error:
            raise ConfigError(f"base must be a field file of OpenFOAM, but {path} {error}.") from error
        self._path = path

    def _read(self) -> _Values | _NotWrittenOutError:
        try:
            return self.field.values()
        except _NotWrittenOutError as error:
            return error

    def rows(self, cells: int, kept: list[int]) -> Array:
        """The values of all cells, to be written over.

        Args:
            cells: how many.
            kept: components that stay.

        Raises:
            ConfigError: there are more or fewer, or the components that stay are not written out.
        """
        rows = np.empty((cells, self.field.components))
        if not isinstance(self._values, _NotWrittenOutError):
            if self._values.cells not in (None, cells):
                raise ConfigError(f"base must have as many cells as the state has points, {cells}, not {self._values.cells}.")
            rows[:] = as_dtype(self._values.rows, rows.dtype)
        elif kept:
            raise ConfigError(
                f"base must have its internalField written out in numbers, because the components {kept} are taken from there, "
                f"but {self._path} {self._values}: write numbers there, or give all {self.field.components} components."
            )
        return rows


def _content(path: Path) -> bytes:
    """A file, or the compressed one beside it."""
    if not path.exists() and (compressed := path.with_name(f"{path.name}.gz")).exists():
        path = compressed
    if path.exists() and not path.is_file():
        raise UnreadableOutputError("is no file")
    try:
        return read_file(path, LARGEST_BASE)
    except OverflowError as error:
        raise UnreadableOutputError(f"is too large: {error}") from error


def _uncompressed(content: bytes, most: int) -> bytes:
    if not content.startswith(GZIP):
        return content
    packed = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = packed.decompress(content, most)
    except zlib.error as error:
        raise UnreadableOutputError(f"is compressed, but cannot be uncompressed ({error})") from error
    if packed.unconsumed_tail:
        raise UnreadableOutputError(f"has more than {most} bytes when uncompressed, far more than the state needs")
    if not packed.eof:
        raise UnreadableOutputError("is compressed, and ends too early: it is truncated")
    return plain


def _field(content: bytes) -> _Field:
    """Take a file apart.

    Raises:
        UnreadableOutputError: it is no field at cell centres.
    """
    if content.startswith(BYTE_ORDER_MARK):
        raise UnreadableOutputError("is no field of OpenFOAM: it begins with a byte-order mark, save it without")
    header = _header(content)
    found = CLASS.fullmatch(header.get("class", ""))
    if found is None:
        held = header.get("class", "none")
        raise UnreadableOutputError(f"is no field of OpenFOAM at cell centres, such as a volVectorField: its class is {held}")
    name = found[1][0].lower() + found[1][1:]
    if name not in COMPONENTS:
        raise UnreadableOutputError(f"is a field of {name!r}, not of {', '.join(COMPONENTS)}")
    scalar, sizes = _sizes(header.get("arch", "")) if header.get("format") == "binary" else (None, None)
    file = Dictionary(content, sizes)
    field = _Field(file, tuple(file.entries()), name, scalar)
    if field.internal is None and not any(entry.keyword in INCLUDES for entry in field.entries):
        raise UnreadableOutputError("is no field of OpenFOAM with its internalField written out: it has none")
    return field


def _header(content: bytes) -> dict[str, str]:
    """What a file says of itself: the first of its entries, which is always text."""
    file = Dictionary(content)
    if file.word(0)[0] != b"FoamFile":
        raise UnreadableOutputError("is no field of OpenFOAM: it does not begin with its header, FoamFile")
    entry = next(file.entries())
    if not entry.is_dictionary:
        raise UnreadableOutputError("is no field of OpenFOAM: its header, FoamFile, is no dictionary")
    words = {said.keyword: file.text(said).strip(b'"') for said in file.entries(entry) if not said.is_dictionary}
    return {keyword.decode(errors="replace"): text.decode(errors="replace") for keyword, text in words.items()}


def _sizes(arch: str) -> tuple[np.dtype[np.floating], dict[str, int]]:
    """How a binary file holds a number, and the bytes of an element of its lists."""
    found = ARCH.fullmatch("".join(arch.split()) or "LSB;label=32;scalar=64")
    if found is None:
        raise UnreadableOutputError(f"is binary, but of an unknown arch {arch!r}, not of one such as LSB;label=32;scalar=64")
    order, (label, scalar) = "<" if found[1] == "LSB" else ">", (int(bits) // 8 for bits in found.groups()[1:])
    sizes = {kind: scalar * components for kind, components in NUMBERS.items()}
    return np.dtype(f"{order}f{scalar}"), {**sizes, "label": label, "bool": 1, "char": 1}


def _rows(text: bytes, cells: int | None, components: int) -> Array:
    """Read values of text, each in brackets unless it is one number; as many as there are if nothing is said."""
    words = text.split() if components == 1 else _unbracketed(text, components)
    fit = words is not None
    try:
        numbers = parse_numbers(text.translate(SPACES).split() if words is None else words)
    except ValueError as error:
        raise UnreadableOutputError(f"holds something else than numbers ({error})") from error
    if cells is not None:
        need_size(numbers.size, cells * components, "numbers")
    if not fit:
        raise UnreadableOutputError(f"holds values that are not all of {components} components: it is garbage")
    return numbers.reshape(-1, components)


def _unbracketed(text: bytes, components: int) -> list[bytes] | None:
    """Split values in brackets into their words; None if one has more or fewer components."""
    words = text.replace(b"(", b" ( ").replace(b")", b" ) ").split()
    cells, rest = divmod(len(words), components + 2)
    if rest or words[:: components + 2] != [b"("] * cells or words[components + 1 :: components + 2] != [b")"] * cells:
        return None
    del words[:: components + 2]
    del words[components :: components + 1]
    return words


def _numbers(values: Array, scalar: np.dtype[np.floating] | None) -> bytes:
    """Write the inside of a list."""
    if scalar is not None:
        return as_dtype(values, scalar).tobytes()
    line = "%.17g\n" if values.shape[1] == 1 else f"({' '.join(['%.17g'] * values.shape[1])})\n"
    return b"\n" + ((line * len(values)) % tuple(values.ravel().tolist())).encode()
