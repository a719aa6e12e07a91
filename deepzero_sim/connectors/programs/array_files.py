"""Files of arrays that a program reads and writes: which numbers lie in which file, and how."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from deepzero_sim.common.arguments import keywords
from deepzero_sim.common.components import Component, Kind, call, load_factory
from deepzero_sim.common.requirements import require, require_known, require_one_of, require_that, require_type
from deepzero_sim.common.types import Array, read_only_copy
from deepzero_sim.connectors.formats import FORMATS
from deepzero_sim.connectors.formats.base import Content, Format
from deepzero_sim.connectors.programs.paths import inner_path
from deepzero_sim.connectors.spec_mapping import channel_places
from deepzero_sim.errors import (
    ConfigError,
    DeepZeroError,
    InvalidStateError,
    SolverCrashError,
    SolverError,
    UnreadableOutputError,
)
from deepzero_sim.solver.spec import SolverSpec

#: What a file holds: the state or some channels of it, the scenario parameters, or first the state and then they, as one row.
Subject = Literal["state", "params", "all"]

#: Place of the channels among the axes of an array: before the points, behind them, or nowhere, if there is but one.
ChannelAxis = Literal["first", "last", "none"]

#: Kind of component that a setting `format` of the user's own may name.
OWN_FORMAT = Kind.of(Format, "a deepzero_sim.connectors.formats.Format")

#: Settings of a file; all others are options of its format.
KEYS = ("path", "format", "channels", "of", "channel_axis")


@dataclass(frozen=True)
class ArrayFile:
    """One file of arrays.

    Args:
        path: Path in the working folder.
        format: Format of the file.
        of: Kind of numbers that it holds.
        channels: Places of its channels in the state, behind which inputs lie; all of the state if `of` is something else.
        channel_axis: Place of the channels among its axes.
        batched: True if an axis of the batch is in front.
    """

    path: str
    format: Format
    of: Subject
    channels: tuple[int, ...]
    channel_axis: ChannelAxis
    batched: bool

    def content(self, states: Array, params: Array | None) -> Content:
        """Return the bytes that the file should hold for a state `(C, *N)`, or states `(B, C, *N)`, and their parameters."""
        usable = self.of == "state" or params is not None
        require_that(usable, f"the file {self.path} needs scenario parameters: pass them.", InvalidStateError)
        values = self._move_channels(self._values(states, params))
        content = self.format.encode(values) if _is_built_in(self.format) else self._encode_by_user_format(values)
        compressed = self.path.endswith(".gz") and ".gz" in self.format.endings
        return gzip.compress(content, mtime=0) if compressed else content

    def _encode_by_user_format(self, values: Array) -> Content:
        """Encode a copy of the values, which are neither the format's own to change nor to keep."""
        name = type(self.format).__name__
        try:
            content = self.format.encode(read_only_copy(values))
        except DeepZeroError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's code makes of its values
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise SolverCrashError(
                f"the file {self.path} cannot be written by its format, {name} ({cause}): mend its encode, which must not "
                "change the array that it is given."
            ) from error
        made = type(content).__name__
        require_that(
            isinstance(content, Content),
            f"the file {self.path} cannot be written: the encode of its format, {name}, must return bytes, not {made}.",
            SolverCrashError,
        )
        return bytes(content)

    def _values(self, states: Array, params: Array | None) -> Array:
        if self.of == "state":
            return states if self._has_all_channels(states) else np.take(states, self.channels, axis=int(self.batched))
        assert params is not None
        row = params.astype(states.dtype, copy=False)
        if self.of == "params":
            return row
        lead = states.shape[: int(self.batched)]
        return np.concatenate([states.reshape(*lead, -1), row], axis=-1)

    def _has_all_channels(self, states: Array) -> bool:
        """Tell whether the file has all channels in their order."""
        return self.channels == tuple(range(states.shape[int(self.batched)]))

    def _move_channels(self, values: Array) -> Array:
        """Put the axis of channels where the file has it."""
        axis = int(self.batched)
        if self.of != "state" or self.channel_axis == "first":
            return values
        return np.moveaxis(values, axis, -1) if self.channel_axis == "last" else values.squeeze(axis)

    def actual_path(self, folder: Path) -> str:
        """Return the path of the file that a program left, with an ending of the format behind it if that is what is there."""
        paths = (self.path + ending for ending in self.format.endings)
        return next((path for path in paths if os.path.lexists(folder / path)), self.path)

    def read(self, content: bytes, into: Array) -> None:
        """Write the channels of a file into a state `(C, *N)`, or states `(B, C, *N)` if batched."""
        axis = int(self.batched)
        lead, points = into.shape[:axis], into.shape[axis + 1 :]
        channels = {"first": (len(self.channels), *points), "last": (*points, len(self.channels)), "none": points}
        values = self._decode(content, (*lead, *channels[self.channel_axis]), into.dtype)
        if self.channel_axis == "last":
            values = np.moveaxis(values, -1, axis)
        elif self.channel_axis == "none":
            values = np.expand_dims(values, axis)
        places = slice(None) if self._has_all_channels(into) else list(self.channels)
        into[(slice(None), places) if self.batched else places] = values

    def _decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        try:
            values = self.format.decode(content, shape, dtype)
        except DeepZeroError:
            raise
        except (Exception, SystemExit) as error:  # of a user's format
            raise UnreadableOutputError(f"cannot be read ({type(error).__name__}: {error})") from error
        fits, made = isinstance(values, np.ndarray) and values.shape == shape, getattr(values, "shape", type(values).__name__)
        require_that(fits, f"was read as {made} by its format, not {shape}", InvalidStateError)
        masked = bool(np.ma.is_masked(values))
        real = values.dtype.kind in "fiu" and not masked  # what is masked or imaginary would be lost
        what = "numbers that are masked in part" if masked else str(values.dtype)
        require_that(real, f"was read as {what} by its format, not as real numbers", InvalidStateError)
        return values


def _is_built_in(file_format: Format) -> bool:
    """Tell our formats, which neither change nor keep their values, from those of users."""
    return type(file_format).__module__.startswith("deepzero_sim.connectors.")


def input_files(settings: Sequence[Mapping[str, Any]], spec: SolverSpec, batched: bool) -> tuple[ArrayFile, ...]:
    """Parse the files that are written before a program runs, and find out now what a format cannot write."""
    files = _parse_files(settings, spec, batched, "inputs", spec.input_names)
    lead = (1,) if batched else ()
    states = np.zeros((*lead, spec.state_shape[0] + len(spec.inputs), *spec.state_shape[1:]), spec.dtype)
    params = np.zeros((*lead, max(1, len(spec.parameters))), spec.dtype)
    for file in files:
        try:
            file.content(states, params)
        except (ConfigError, SolverError) as error:
            raise ConfigError(f"inputs: {file.path}: {error}") from error
    return files


def output_files(settings: Sequence[Mapping[str, Any]], spec: SolverSpec, batched: bool) -> tuple[ArrayFile, ...]:
    """Parse the files that are read when a program has ended. They hold every channel once."""
    files = _parse_files(settings, spec, batched, "outputs")
    for file in files:
        wrong = f"outputs: {file.path} must be of the state, not of {file.of!r}: a program returns the next state."
        require_that(file.of == "state", wrong)
    channels, count = sorted(channel for file in files for channel in file.channels), spec.state_shape[0]
    names = ", ".join(str((spec.channels or range(count))[channel]) for channel in channels) or "none"
    incomplete = f"outputs must hold each of the {count} channels once, but hold {names}: say which channels each file has."
    require_that(channels == list(range(count)), incomplete)
    return files


def _parse_files(
    settings: Sequence[Mapping[str, Any]], spec: SolverSpec, batched: bool, what: str, inputs: Sequence[str] = ()
) -> tuple[ArrayFile, ...]:
    listed = isinstance(settings, Sequence) and not isinstance(settings, str)
    usable = listed and all(isinstance(entry, Mapping) for entry in settings)
    require(usable, f"{what} must be a list of files, each with its path and format", settings)
    return tuple(_parse_file(entry, spec, batched, what, inputs) for entry in settings)


def _parse_file(entry: Mapping[str, Any], spec: SolverSpec, batched: bool, what: str, inputs: Sequence[str]) -> ArrayFile:
    path = inner_path(entry.get("path", ""), what)
    where = f"{what}: {path}"
    subject = entry.get("of", "state")
    require_one_of(subject, get_args(Subject), f"{where}: of")
    options = {str(key): value for key, value in entry.items() if key not in KEYS}
    file_format = _build_format(entry.get("format", "npy"), options, where)
    named = entry.get("channels")
    channels = tuple(range(spec.state_shape[0])) if named is None else channel_places(named, spec, where, inputs)
    axis = _channel_axis(entry.get("channel_axis"), file_format, channels, where)
    return ArrayFile(path, file_format, subject, channels, axis, batched)


def _build_format(named: Any, options: dict[str, Any], where: str) -> Format:
    """Build a format from its short name or, if it is the user's own, from its import path; one that is built stays."""
    if isinstance(named, Format):
        return named
    known = f"one of {', '.join(FORMATS)}, or a Format of your own as an import path or file.py:Name"
    require(isinstance(named, str) and (named in FORMATS or "." in named), f"{where}: format must be {known}", named)
    try:
        factory = FORMATS.get(named) or load_factory(named, OWN_FORMAT)
        if names := keywords(factory):
            require_known(options, (*KEYS, *names), f"a file of the format {named}")
        built = call(factory, Component(f"the format {named}", options))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    require_type(built, Format, f"{where}: {named} must make a deepzero_sim.connectors.formats.Format")
    return built  # type: ignore[no-any-return]


def _channel_axis(axis: Any, file_format: Format, channels: tuple[int, ...], where: str) -> ChannelAxis:
    if axis is None:
        return "last" if file_format.columns else "first"
    possible = axis in get_args(ChannelAxis) and (axis == "last" or not file_format.columns)
    require(possible, f"{where}: channel_axis must be first, last or none, and last in columns", axis)
    alone = axis != "none" or len(channels) == 1
    require_that(alone, f"{where}: channel_axis none is for one channel, not for {len(channels)}.")
    return axis  # type: ignore[no-any-return]
