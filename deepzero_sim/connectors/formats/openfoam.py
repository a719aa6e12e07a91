"""OpenFOAM's fields at cell centres: `volScalarField`, `volVectorField` and their kin, ASCII and binary, compressed or not."""

from __future__ import annotations

import codecs
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from deepzero_sim.common.files import read_plain_file
from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import LARGEST_BASE, Content, Format, as_dtype, require_content, require_size
from deepzero_sim.connectors.formats.numbers import parse_numbers
from deepzero_sim.connectors.formats.openfoam_dictionary import NUMBERS, Dictionary, Entry, List, has_macros, strip_comments
from deepzero_sim.errors import ConfigError, InvalidStateError, UnreadableOutputError

#: Components of a value, by OpenFOAM's name for its kind.
COMPONENTS = {kind: NUMBERS[kind] for kind in ("scalar", "vector", "symmTensor", "tensor")}

CLASS = re.compile(r"vol(\w+)Field")
ARCH = re.compile(r"(LSB|MSB);label=(32|64);scalar=(32|64)")
SPACES = bytes.maketrans(b"()", b"  ")

#: Directives that may bring entries from other files; no file of OpenFOAM's own that they include has an internalField.
INCLUDES = (b"#include", b"#sinclude", b"#includeIfPresent")
CONDITIONS = (b"#if", b"#ifeq")

#: Text that is, or may bring, a reference to the internalField.
REFERENCE = re.compile(rb"internalField|#(?:include|sinclude|includeIfPresent)\b")

GZIP = b"\x1f\x8b"

#: Beginning of the message about a field whose numbers only OpenFOAM can tell.
NOT_WRITTEN_OUT = "is no field of OpenFOAM with its internalField written out"


class _NotWrittenOutError(UnreadableOutputError):
    """The internalField has a value that only OpenFOAM can tell."""


@dataclass(frozen=True)
class _Values:
    """Values of an internalField, `(cells, components)`, or `(1, components)` where one stands for all `cells`."""

    cells: int | None  #: None if the file does not tell
    rows: Array


@dataclass(frozen=True)
class _Field:
    """Field file: its entries, without those of its dictionaries, and what its header says.

    Args:
        kind: Kind of its values, such as `vector`.
        scalar: Dtype of the numbers of a binary file; None if the file is ASCII.
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
        return COMPONENTS[self.kind]

    def partition(self) -> tuple[bytes, bytes]:
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
            _NotWrittenOutError: It must be evaluated, or may be in another file.
            UnreadableOutputError: It holds no values of this field.
        """
        entry = self.internal
        if entry is None:
            raise _NotWrittenOutError(f"{NOT_WRITTEN_OUT}, but includes other files")
        overridden = self._is_overridden(entry)
        require_content(not overridden, f"{NOT_WRITTEN_OUT}: it depends on directives", _NotWrittenOutError)
        word, place = self.file.word(entry.value)
        if not entry.is_dictionary and word == b"nonuniform" and (values := self.file.list_at(place)):
            return self._list_values(values, entry)
        text = b"" if entry.is_dictionary else self.file.text(entry)
        shown = text[:60].decode(errors="replace")
        evaluated = f"{NOT_WRITTEN_OUT}: it says {shown!r}, which OpenFOAM evaluates"
        require_content(not has_macros(text), evaluated, _NotWrittenOutError)
        require_content(word == b"uniform", f"{NOT_WRITTEN_OUT} as uniform or nonuniform")
        return _Values(None, _parse_rows(text.removeprefix(word), 1, self.components))

    def _list_values(self, values: List, entry: Entry) -> _Values:
        content = self.file.content
        alone = self.file.skip_gap(values.end) == entry.end - 1
        require_content(alone, "has an internalField that is more than a list: it is garbage, or of another size")
        own_kind = values.kind in (None, self.kind)
        require_content(own_kind, f"is a field of {self.kind!r}, but holds a list of {values.kind!r}")
        inside = content[values.start : values.end - 1] if values.opening else b""
        if values.opening == b"(" and self.scalar is not None and values.count is not None:
            rows: Array = np.frombuffer(inside, self.scalar).reshape(values.count, self.components)
            return _Values(values.count, rows)
        text = strip_comments(inside) if b"/" in inside else inside
        if values.opening == b"{":
            return _Values(values.count, _parse_rows(text, 1, self.components))
        rows = _parse_rows(text, values.count, self.components)
        return _Values(len(rows), rows)


class OpenFoam(Format):
    """`openfoam`: the entry `internalField` of a field file. States have their points in the order of cells.

    Args:
        base: Path of the field file that is written with another `internalField`, so that its boundary conditions stay; needed
            for inputs only. ASCII or binary, as the file itself tells, and compressed or not: where `U` is named and only
            `U.gz` is there, that is meant.
        components: Components of a vector (or tensor), one for each channel: `[0, 1]` for x and y; the first ones if None. The
            others are those of `base`.

    Raises:
        ConfigError: There is no such file, or it is no field at cell centres.
    """

    columns: ClassVar[bool] = True
    endings: ClassVar[tuple[str, ...]] = ("", ".gz")

    def __init__(self, base: str | Path | None = None, components: list[int] | None = None) -> None:
        fits = isinstance(components, list | tuple) and all(is_integer(place) for place in components)
        require(components is None or fits, "components must be a list of numbers, such as [0, 1] for x and y", components)
        self._components = components
        require(base is None or isinstance(base, str | Path), "base must be the path of a field file of OpenFOAM", base)
        self._base = None if base is None else _Base(Path(base))

    def encode(self, values: Array) -> Content:
        if self._base is None:
            raise ConfigError("the format openfoam needs a field file to write to: name it as base.")
        field = self._base.field
        cells = values.reshape(-1, values.shape[-1])
        own = self._own_components(values.shape[-1], field.components)
        rows = self._base.rows(len(cells), [component for component in range(field.components) if component not in own])
        rows[:, own] = cells
        start = f"internalField nonuniform List<{field.kind}>\n{len(rows)}\n(".encode()
        return self._base.before + start + _encode_rows(rows, field.scalar) + b")\n;" + self._base.after

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        cells = int(np.prod(shape[:-1]))
        field = _parse_field(_decompress(content, self.largest(int(np.prod(shape)))))
        has_boundary = any(entry.keyword == b"boundaryField" for entry in field.entries)
        require_content(has_boundary, "ends before its boundary conditions do: it is truncated")
        values = field.values()
        enough = shape[-1] <= field.components
        require_content(enough, f"holds values of {field.components} components, not {shape[-1]}", InvalidStateError)
        require_content(values.cells in (None, cells), f"holds {values.cells} cells, not {cells}", InvalidStateError)
        channels = values.rows[:, self._own_components(shape[-1], field.components)]
        return as_dtype(np.broadcast_to(channels, (cells, shape[-1])).reshape(shape), dtype)

    def largest(self, values: int) -> int:
        return 256 * values + 2**24  # boundaries may be long, and all components are there

    def _own_components(self, channels: int, available: int) -> list[int]:
        own = list(range(channels)) if self._components is None else self._components
        fits = len(set(own)) == len(own) == channels and all(component in range(available) for component in own)
        require(fits, f"components must be {channels} different numbers from 0 to {available - 1}, one a channel", own)
        return own


class _Base:
    """Field file that inputs are written after; its path may lack the `.gz` that it ends in."""

    def __init__(self, path: Path) -> None:
        try:
            self.field = _parse_field(_decompress(_read_base(path), LARGEST_BASE))
            self.before, self.after = self.field.partition()
            self._values: _Values | _NotWrittenOutError = self._values_or_error()
        except UnreadableOutputError as error:
            raise ConfigError(f"base must be a field file of OpenFOAM, but {path} {error}.") from error
        self._path = path

    def _values_or_error(self) -> _Values | _NotWrittenOutError:
        try:
            return self.field.values()
        except _NotWrittenOutError as error:
            return error

    def rows(self, cells: int, others: list[int]) -> Array:
        """Return the values of all cells of a state, to be written over; `others` are the components that it does not have."""
        rows = np.empty((cells, self.field.components))
        if not isinstance(self._values, _NotWrittenOutError):
            same = self._values.cells in (None, cells)
            require(same, f"base must have as many cells as the state has points, {cells}", self._values.cells)
            rows[:] = as_dtype(self._values.rows, rows.dtype)
        elif others:
            raise ConfigError(
                f"base must have its internalField written out in numbers, because the components {others} are taken from "
                f"there, but {self._path} {self._values}: write numbers there, or give all {self.field.components} components."
            )
        return rows


def _read_base(path: Path) -> bytes:
    """Read a file, or the compressed one that is there in its place."""
    try:
        if not path.exists() and (compressed := path.with_name(f"{path.name}.gz")).exists():
            path = compressed
        require_content(path.is_file() or not path.exists(), "is no file")
        return read_plain_file(path, LARGEST_BASE)
    except OverflowError as error:
        raise UnreadableOutputError(f"is too large: {error}") from error
    except OSError as error:
        raise UnreadableOutputError(f"cannot be read ({error.strerror})") from error


def _decompress(content: bytes, limit: int) -> bytes:
    if not content.startswith(GZIP):
        return content
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = stream.decompress(content, limit)
    except zlib.error as error:
        raise UnreadableOutputError(f"is compressed, but cannot be uncompressed ({error})") from error
    within = not stream.unconsumed_tail
    require_content(within, f"has more than {limit} bytes when uncompressed, far more than the state needs")
    require_content(stream.eof, "is compressed, and ends too early: it is truncated")
    return plain


def _parse_field(content: bytes) -> _Field:
    """Find the entries of a file, which must be a field at cell centres, and read its header."""
    marked = content.startswith(codecs.BOM_UTF8)
    require_content(not marked, "is no field of OpenFOAM: it begins with a byte-order mark, save it without")
    header = _parse_header(content)
    match = CLASS.fullmatch(header.get("class", ""))
    if match is None:
        held = header.get("class", "none")
        raise UnreadableOutputError(f"is no field of OpenFOAM at cell centres, such as a volVectorField: its class is {held}")
    kind = match[1][0].lower() + match[1][1:]
    require_content(kind in COMPONENTS, f"is a field of {kind!r}, not of {', '.join(COMPONENTS)}")
    scalar, sizes = _binary_layout(header.get("arch", "")) if header.get("format") == "binary" else (None, None)
    file = Dictionary(content, sizes)
    field = _Field(file, tuple(file.entries()), kind, scalar)
    exists = field.internal is not None or any(entry.keyword in INCLUDES for entry in field.entries)
    require_content(exists, f"{NOT_WRITTEN_OUT}: it has none")
    return field


def _parse_header(content: bytes) -> dict[str, str]:
    """Read the words of the header: the first entry of a file, which is always text."""
    file = Dictionary(content)
    begins = file.word(0)[0] == b"FoamFile"
    require_content(begins, "is no field of OpenFOAM: it does not begin with its header, FoamFile")
    header = next(file.entries())
    require_content(header.is_dictionary, "is no field of OpenFOAM: its header, FoamFile, is no dictionary")
    words = {entry.keyword: file.text(entry).strip(b'"') for entry in file.entries(header) if not entry.is_dictionary}
    return {keyword.decode(errors="replace"): text.decode(errors="replace") for keyword, text in words.items()}


def _binary_layout(arch: str) -> tuple[np.dtype[np.floating], dict[str, int]]:
    """Return the dtype of a number in a binary file, and the bytes of an element of its lists by their types."""
    match = ARCH.fullmatch("".join(arch.split()) or "LSB;label=32;scalar=64")
    if match is None:
        raise UnreadableOutputError(f"is binary, but of an unknown arch {arch!r}, not of one such as LSB;label=32;scalar=64")
    order, (label, scalar) = "<" if match[1] == "LSB" else ">", (int(bits) // 8 for bits in match.groups()[1:])
    sizes = {kind: scalar * components for kind, components in NUMBERS.items()}
    return np.dtype(f"{order}f{scalar}"), {**sizes, "label": label, "bool": 1, "char": 1}


def _parse_rows(text: bytes, cells: int | None, components: int) -> Array:
    """Read values of text, each in brackets unless it is one number; as many as there are if `cells` is None."""
    words = text.split() if components == 1 else _strip_brackets(text, components)
    try:
        numbers = parse_numbers(text.translate(SPACES).split() if words is None else words)
    except ValueError as error:
        raise UnreadableOutputError(f"holds something else than numbers ({error})") from error
    if cells is not None:
        require_size(numbers.size, cells * components, "numbers")
    require_content(words is not None, f"holds values that are not all of {components} components: it is garbage")
    return numbers.reshape(-1, components)


def _strip_brackets(text: bytes, components: int) -> list[bytes] | None:
    """Split values in brackets into their words; None if one has more or fewer components."""
    words = text.replace(b"(", b" ( ").replace(b")", b" ) ").split()
    cells, rest = divmod(len(words), components + 2)
    if rest or words[:: components + 2] != [b"("] * cells or words[components + 1 :: components + 2] != [b")"] * cells:
        return None
    del words[:: components + 2]
    del words[components :: components + 1]
    return words


def _encode_rows(values: Array, scalar: np.dtype[np.floating] | None) -> bytes:
    """Return the inside of a list."""
    if scalar is not None:
        return as_dtype(values, scalar).tobytes()
    line = "%.17g\n" if values.shape[1] == 1 else f"({' '.join(['%.17g'] * values.shape[1])})\n"
    return b"\n" + ((line * len(values)) % tuple(values.ravel().tolist())).encode()
