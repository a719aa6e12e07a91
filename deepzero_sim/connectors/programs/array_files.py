"""Which numbers lie in which file of a program, and how."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from deepzero_sim.common.arguments import keywords
from deepzero_sim.common.components import Component, Wanted, call, load_factory
from deepzero_sim.common.spelling import require_known
from deepzero_sim.common.types import Array, read_only_copy
from deepzero_sim.connectors.formats import FORMATS, Content, Format
from deepzero_sim.connectors.programs.paths import inside
from deepzero_sim.connectors.spec_mapping import channel_places
from deepzero_sim.errors import (
    ConfigError,
    DeepZeroError,
    InvalidStateError,
    SolverCrashError,
    SolverError,
    UnreadableOutputError,
)
from deepzero_sim.solver.contract import SolverSpec

#: What a file holds: the state or some channels of it, the scenario parameters, or first the state and then they, as one row.
Held = Literal["state", "params", "all"]

#: Where the channels are among the axes of an array: before the points, behind them, or nowhere, if there is but one.
ChannelAxis = Literal["first", "last", "none"]

#: What a format that is not one of ours may name.
OWN_FORMAT = Wanted.of(Format, "a deepzero_sim.connectors.formats.Format")

#: What the settings of a file may say; the rest are options of its format.
KEYS = ("path", "format", "channels", "of", "channel_axis")


@dataclass(frozen=True)
class ArrayFile:
    """One file of arrays.

    Args:
        path: in the working folder.
        format: of the file.
        of: what it holds.
        channels: of the state, by their places; all of them in their order if `of` is something else.
        channel_axis: where they are.
        batched: whether an axis of the batch is in front.
    """

    path: str
    format: Format
    of: Held
    channels: tuple[int, ...]
    channel_axis: ChannelAxis
    batched: bool

    def content(self, states: Array, params: Array | None) -> Content:
        """What is to be written.

        Args:
            states: `(C, *N)`, or `(B, C, *N)` if batched.
            params: `(K,)`, or `(B, K)` if batched, or None.

        Raises:
            InvalidStateError: there are no params to be written.
            SolverCrashError: a format of the user's does not make them bytes.
        """
        if self.of != "state" and params is None:
            raise InvalidStateError(f"the file {self.path} needs scenario parameters: pass them.")
        values = self._arranged(self._values(states, params))
        content = self.format.encode(values) if _is_of_ours(self.format) else self._encoded(values)
        compressed = self.path.endswith(".gz") and ".gz" in self.format.endings
        return gzip.compress(content, mtime=0) if compressed else content

    def _encoded(self, values: Array) -> Content:
        """What a format of the user's makes of values, which are neither its own to change nor to keep."""
        try:
            content = self.format.encode(read_only_copy(values))
        except DeepZeroError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's code makes of its values
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise SolverCrashError(
                f"the file {self.path} cannot be written by its format, {type(self.format).__name__} ({said}): mend its "
                "encode, which must not change the array that it is given."
            ) from error
        if not isinstance(content, Content):
            raise SolverCrashError(
                f"the file {self.path} cannot be written: the encode of its format, {type(self.format).__name__}, must return "
                f"bytes, not {type(content).__name__}."
            )
        return bytes(content)

    def _values(self, states: Array, params: Array | None) -> Array:
        if self.of == "state":
            whole = self._is_whole(states)
            return states if whole else np.take(states, self.channels, axis=int(self.batched))
        assert params is not None
        given = params.astype(states.dtype, copy=False)
        if self.of == "params":
            return given
        lead = states.shape[: int(self.batched)]
        return np.concatenate([states.reshape(*lead, -1), given], axis=-1)

    def _is_whole(self, states: Array) -> bool:
        """Whether the file has all channels in their order."""
        return self.channels == tuple(range(states.shape[int(self.batched)]))

    def _arranged(self, values: Array) -> Array:
        """With the axis of channels where the file has it."""
        axis = int(self.batched)
        if self.of != "state" or self.channel_axis == "first":
            return values
        return np.moveaxis(values, axis, -1) if self.channel_axis == "last" else values.squeeze(axis)

    def found_in(self, folder: Path) -> str:
        """Return the path of the file that a program left, with an ending of the format behind it if that is what is there."""
        paths = (self.path + ending for ending in self.format.endings)
        return next((path for path in paths if os.path.lexists(folder / path)), self.path)

    def read(self, content: bytes, into: Array) -> None:
        """Take the channels of a file.

        Args:
            content: of the file.
            into: `(C, *N)`, or `(B, C, *N)` if batched; the channels are written there.

        Raises:
            SolverError: it cannot be read, or holds something else.
        """
        lead, points = into.shape[: int(self.batched)], into.shape[1 + int(self.batched) :]
        channels = {"first": (len(self.channels), *points), "last": (*points, len(self.channels)), "none": points}
        shape = (*lead, *channels[self.channel_axis])
        try:
            values = self.format.decode(content, shape, into.dtype)
        except DeepZeroError:
            raise
        except (Exception, SystemExit) as error:  # of a format that is not ours
            raise UnreadableOutputError(f"cannot be read ({type(error).__name__}: {error})") from error
        if not isinstance(values, np.ndarray) or values.shape != shape:
            raise InvalidStateError(f"was read as {getattr(values, 'shape', type(values).__name__)} by its format, not {shape}")
        if values.dtype.kind not in "fiu" or np.ma.is_masked(values):  # the rest would be dropped when it is taken
            what = "numbers that are masked in part" if np.ma.is_masked(values) else str(values.dtype)
            raise InvalidStateError(f"was read as {what} by its format, not as real numbers")
        axis = int(self.batched)
        if self.channel_axis == "last":
            values = np.moveaxis(values, -1, axis)
        elif self.channel_axis == "none":
            values = np.expand_dims(values, axis)
        places = slice(None) if self._is_whole(into) else list(self.channels)
        into[(slice(None), places) if self.batched else places] = values

    def largest(self, states: Array) -> int:
        """Bytes that the file may have, where `states` are those that were given."""
        return self.format.largest(states.size)


def _is_of_ours(made: Format) -> bool:
    return type(made).__module__.startswith(f"{__package__}.")


def input_files(settings: Sequence[Mapping[str, Any]], spec: SolverSpec, batched: bool) -> tuple[ArrayFile, ...]:
    """The files that are written before a program runs.

    Raises:
        ConfigError: the settings are not usable.
    """
    files = tuple(_array_file(entry, spec, batched, "inputs") for entry in _entries(settings, "inputs"))
    for file in files:
        _try_to_write(file, spec)
    return files


def output_files(settings: Sequence[Mapping[str, Any]], spec: SolverSpec, batched: bool) -> tuple[ArrayFile, ...]:
    """The files that are read when a program has ended. They hold every channel once.

    Raises:
        ConfigError: the settings are not usable.
    """
    files = tuple(_array_file(entry, spec, batched, "outputs") for entry in _entries(settings, "outputs"))
    for file in files:
        if file.of != "state":
            raise ConfigError(
                f"outputs: {file.path} must be of the state, not of {file.of!r}: a program returns the next state."
            )
    found = sorted(channel for file in files for channel in file.channels)
    if found != list(range(spec.state_shape[0])):
        raise ConfigError(
            f"outputs must hold each of the {spec.state_shape[0]} channels once, but hold {_named(found, spec) or 'none'}: "
            "say which channels each file has."
        )
    return files


def _named(channels: Sequence[int], spec: SolverSpec) -> str:
    return ", ".join(spec.channels[channel] if spec.channels else str(channel) for channel in channels)


def _entries(settings: Sequence[Mapping[str, Any]], what: str) -> Sequence[Mapping[str, Any]]:
    listed = isinstance(settings, Sequence) and not isinstance(settings, str)
    if not listed or not all(isinstance(entry, Mapping) for entry in settings):
        raise ConfigError(f"{what} must be a list of files, each with its path and format, not {settings!r}.")
    return settings


def _array_file(entry: Mapping[str, Any], spec: SolverSpec, batched: bool, what: str) -> ArrayFile:
    path = inside(entry.get("path", ""), what)
    where = f"{what}: {path}"
    held = entry.get("of", "state")
    if held not in get_args(Held):
        raise ConfigError(f"{where}: of must be one of {', '.join(get_args(Held))}, not {held!r}.")
    options = {str(key): value for key, value in entry.items() if key not in KEYS}
    made = _format(entry.get("format", "npy"), options, where)
    channels = _channels(entry.get("channels"), spec, where)
    return ArrayFile(path, made, held, channels, _axis(entry.get("channel_axis"), made, channels, where), batched)


def _format(named: Any, options: dict[str, Any], where: str) -> Format:
    """A format by its short name, or of the user's own by its import path, or made already."""
    if isinstance(named, Format):
        return named
    if not isinstance(named, str) or not (named in FORMATS or "." in named):
        raise ConfigError(
            f"{where}: format must be one of {', '.join(FORMATS)}, or a Format of your own as an import path or file.py:Name, "
            f"not {named!r}."
        )
    try:
        factory = FORMATS.get(named) or load_factory(named, OWN_FORMAT)
        if known := keywords(factory):
            require_known(options, (*KEYS, *known), f"a file of the format {named}")
        made = call(factory, Component(f"the format {named}", options))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(made, Format):
        raise ConfigError(f"{where}: {named} must make a deepzero_sim.connectors.formats.Format, not {type(made).__name__}.")
    return made


def _channels(named: Any, spec: SolverSpec, where: str) -> tuple[int, ...]:
    """Places of channels, by names of the spec or by numbers; all of them if nothing is said."""
    return tuple(range(spec.state_shape[0])) if named is None else channel_places(named, spec, where)


def _axis(axis: Any, made: Format, channels: tuple[int, ...], where: str) -> ChannelAxis:
    if axis is None:
        return "last" if made.columns else "first"
    if axis not in get_args(ChannelAxis) or (made.columns and axis != "last"):
        raise ConfigError(f"{where}: channel_axis must be first, last or none, and last in columns, not {axis!r}.")
    if axis == "none" and len(channels) > 1:
        raise ConfigError(f"{where}: channel_axis none is for one channel, not for {len(channels)}.")
    found: ChannelAxis = axis
    return found


def _try_to_write(file: ArrayFile, spec: SolverSpec) -> None:
    """Find out now what a format cannot write."""
    lead = (1,) if file.batched else ()
    states = np.zeros((*lead, *spec.state_shape), spec.dtype)
    params = np.zeros((*lead, max(1, len(spec.parameters))), spec.dtype)
    try:
        file.content(states, params)
    except (ConfigError, SolverError) as error:
        raise ConfigError(f"inputs: {file.path}: {error}") from error
