"""Sources of trajectories: a path, and what has to be said of a file by another program."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from deepzero_sim.common.requirements import require
from deepzero_sim.common.settings import Rule, Settings
from deepzero_sim.common.types import is_integer, is_number

#: Responses to values that are missing: refuse them, take points that are never there for masked, drop simulations, or take
#: values for not observed.
Missing: TypeAlias = Literal["refuse", "mask", "drop", "unobserved"]

#: Name of the times among factors.
TIME = "time"

_Step: TypeAlias = Annotated[float | None, Rule(lambda value: 0 < value < float("inf"), "a positive number")]
_Every: TypeAlias = Annotated[int | None, Rule(lambda value: value >= 1, "1 or more")]


def _is_finite(value: object) -> bool:
    """Tell numbers that float64 has."""
    return is_number(value) and abs(value) <= sys.float_info.max


@dataclass
class DataSource(Settings):
    """Trajectories of a file or folder of any known layout.

    Args:
        path: File or folder.
        format: Layout of the file, by name; none to find it out.
        channels: Channels to take, or the solver's names of them by the file's, {theirs: ours}: {density: rho}; all if none are
            given.
        axes: The solver's names of the file's axes, by the file's, {theirs: ours}: {lat: y}; or, for arrays that do not say,
            the role of each axis in order: [simulation, time, channel, y, x].
        parameters: Values of parameters that the file lacks, by the solver's name, {ours: value}: a number, a list with one a
            simulation, or the file's name for it: {drag: 0.1, nu: viscosity}.
        scale: Factors from the file's units to the solver's, by the solver's channel: {rho: 0.001}; that of times by time:
            {time: 3600}.
        shift: Numbers that are added after that, likewise: {T: 273.15}.
        restrict: Restriction to the solver's grid: block_mean, face_mean, spectral, interpolation, cubic_interpolation,
            injection, or an import path or file.py:Name of restrict(states, spec).
        every: Number of frames of the file that make one step of the solver; none to find it out from the times.
        dt: Distance of the file's frames in time, where the file has no times.
        missing: Response to values that are missing: refuse, mask (points that are never there), drop (simulations), or
            unobserved (loss observed leaves them out; rollouts begin at frames that have all values).
        simulations: Numbers of the simulations that are taken, from 0; all if none are given.
    """

    path: Path
    format: str | None = None
    channels: list[str] | dict[str, str] = field(default_factory=list)
    axes: list[str] | dict[str, str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    shift: dict[str, float] = field(default_factory=dict)
    restrict: str | None = None
    every: _Every = None
    dt: _Step = None
    missing: Missing = "refuse"
    simulations: list[int] | None = None

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        super().__post_init__()
        for name, value in self.parameters.items():
            known = _is_finite(value) or isinstance(value, str)
            listed = isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_finite, value))
            require(known or listed, f"parameters.{name} must be a number, a list of them, or a name in the file", value)
        for name, factor in self.scale.items():
            require(_is_finite(factor) and factor != 0, f"scale.{name} must be a factor other than 0", factor)
        time = self.scale.get(TIME, 1)
        require(time > 0, "scale.time must be a positive factor from the file's unit of time to the solver's", time)
        for name, number in self.shift.items():
            require(_is_finite(number), f"shift.{name} must be a number, which is added", number)
        chosen = self.simulations
        if chosen is not None:
            whole = len(chosen) > 0 and all(is_integer(one) and one >= 0 for one in chosen)
            expected = "simulations must be whole numbers from 0 on, each once"
            require(whole and len(set(chosen)) == len(chosen), expected, chosen)

    @property
    def function(self) -> str | None:
        """Name of the user's function that restricts states; None if a restriction of this package does, or none."""
        return self.restrict if self.restrict is not None and is_function(self.restrict) else None

    def function_from(self, folder: Path) -> str | None:
        """Return the function's name, its file found from a folder if it is relative; None if there is none."""
        file, colon, name = (self.function or "").rpartition(":")
        return f"{folder / file}:{name}" if colon else self.function

    @property
    def is_plain(self) -> bool:
        """True if nothing is said but the path."""
        return self == DataSource(self.path)


def is_function(restrict: str) -> bool:
    """Tell the name of a user's function that restricts states from that of a restriction of this package."""
    return "." in restrict or ":" in restrict


#: Setting of a command that takes trajectories: a path, or a path with what has to be said of it.
Source: TypeAlias = Path | DataSource


def turn_around(given: Mapping[str, Any], known: Collection[str], others: Collection[str] | None, way: str) -> str:
    """Say which way names go, and write out the other one where that fits; the end of a sentence.

    Args:
        given: Names of one side by those of the other, as the user gave them.
        known: Names of the side that the keys are to be of.
        others: Names of the other side; None where they are not known.
        way: Words on the way that they go, such as `channels go from the file's names to the solver's`.
    """

    def fits(key: str, value: Any) -> bool:
        return key not in known and value in known and (others is None or key in others)

    turned = dict((value, key) if fits(key, value) else (key, value) for key, value in given.items())
    entries = ", ".join(f"{key}: {value}" for key, value in turned.items())
    is_whole = turned.keys() <= {*known} and len(turned) == len(given)
    return f"; {way}{f': write {{{entries}}}' if is_whole else ''}"


def as_source(source: str | Path | DataSource) -> DataSource:
    """Convert a path to a source of which nothing else is said."""
    return source if isinstance(source, DataSource) else DataSource(Path(source))


def source_from(folder: Path, source: Source) -> Source:
    """Return a source whose file, and whose function's file, are found from a folder if they are relative."""
    if not isinstance(source, DataSource):
        return folder / source
    return replace(source, path=folder / source.path, restrict=source.function_from(folder) or source.restrict)


def path_of(source: Source) -> Path:
    """Return the path of a source."""
    return source.path if isinstance(source, DataSource) else source
