"""States of a file on their way to a solver's, and values that are missing among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.components import call_function
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.fitting.arrangement import Arrangement
from deepzero_sim.datasets.frames import Frames, blocks
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import Missing
from deepzero_sim.solver.spec import SolverSpec


@dataclass(frozen=True, eq=False)
class FittedStates:
    """Function of a file's states, `(B, C', *N')`, to a solver's, `(B, C, *N)`.

    Args:
        arrangement: Order of the file's channels and axes that is the solver's.
        restrict: Restriction to the solver's grid; None if they are on it.
        conversion: Conversion from the file's units to the solver's.
        active: True where the solver's states hold values, bool `(C, *N)`; zero elsewhere.
        fill: True if values that are missing become zero: they are masked.
        missing: True where the file has no values, bool `(1, C', *N')` as it is arranged: NaN there; None to leave the zeros.
    """

    arrangement: Arrangement
    restrict: Callable[[Array], Array] | None
    conversion: UnitConversion
    active: NDArray[np.bool_]
    fill: bool = False
    missing: NDArray[np.bool_] | None = None

    def __call__(self, states: Array) -> Array:
        states = self.arrangement(states)
        if self.missing is not None:
            states = np.where(self.missing, np.nan, states)
        if self.fill:
            states = np.where(np.isnan(states), 0, states)
        if self.restrict is not None:
            states = self.restrict(states)
        states = self.conversion(states)
        return states if self.active.all() else np.where(self.active, states, 0)


@dataclass(frozen=True, eq=False)
class UnitConversion:
    """Conversion from a file's units to a solver's: a factor for each channel, and what is added then.

    Args:
        factors: Factors, `(C,)`.
        shifts: Numbers that are added, `(C,)`.
    """

    factors: NDArray[np.float64]
    shifts: NDArray[np.float64]

    @property
    def is_identity(self) -> bool:
        """True if it changes nothing."""
        return bool((self.factors == 1).all() and (self.shifts == 0).all())

    def __call__(self, states: Array) -> Array:
        """Convert states `(B, C, *N)`."""
        form = (-1, *(1,) * (states.ndim - 2))
        if (self.factors != 1).any():
            states = states * self.factors.reshape(form)
        return states + self.shifts.reshape(form) if self.shifts.any() else states

    def largest(self, values: Any) -> Any:
        """Bound converted values, without their sign, by bounds of the values, `(C,)` or a number."""
        return np.abs(values * np.abs(self.factors)) + np.abs(self.shifts)


@dataclass(frozen=True)
class ByFunction:
    """Restriction by a function of the user's, which returns NaN for values that are missing.

    Args:
        name: Import path or `file.py:Name` of ``restrict(states, spec)``.
        spec: Spec of the solver.
        largest: Largest number, without its sign, that it may return: those that are too large for the solver's type.
        may_be_missing: True if values that the solver has may be missing.
    """

    name: str
    spec: SolverSpec
    largest: float = np.inf
    may_be_missing: bool = False

    def __call__(self, states: Array) -> Array:
        """Restrict states.

        Raises:
            DataError: The function returns something else than states of the solver.
        """
        made = call_function(self.name, np.ascontiguousarray(states), self.spec)
        wanted = (len(states), *self.spec.state_shape)
        is_array = isinstance(made, np.ndarray) and not isinstance(made, np.ma.MaskedArray) and made.dtype.kind in "fiu"
        kind = f"an array of {made.dtype}" if type(made) is np.ndarray else type(made).__name__
        came = f"an array of shape {made.shape}" if is_array else kind
        require_data(
            is_array and made.shape == wanted,
            f"{self.name} must return states of solver {self.spec.name!r}, an array of shape {wanted}, not {came}: check it on "
            "one frame.",
        )
        unusable = np.isinf(made) | (False if self.may_be_missing else np.isnan(made) & self.spec.active())
        require_data(
            not unusable.any(),
            f"{self.name} must return finite numbers, but {int(unusable.sum())} of {made.size} are not: check it on the frames "
            "of the data, which are NaN where the file has no values; missing: drop leaves out simulations for which it "
            "returns NaN.",
        )
        largest = np.abs(made).max(initial=0.0, where=~np.isnan(made))
        require_data(
            bool(largest <= self.largest),
            f"{self.name} must return numbers that {self.spec.dtype} has, the type of solver {self.spec.name!r}, but some are "
            f"as large as {largest:.3g}: use a solver of float64, or other units.",
        )
        restricted: Array = made
        return restricted


@dataclass(frozen=True, eq=False)
class MissingValues:
    """Values that are missing in frames.

    Args:
        counts: Numbers of them by simulation, `(S,)`.
        always: True where they are missing in all frames, bool `(C, *N)`.
        sometimes: True where they are missing in some frames, bool `(C, *N)`.
        first: Place of the first one in words, empty if there is none.
        largest: Largest value by channel, without its sign, `(C,)`.
    """

    counts: NDArray[np.int64]
    always: NDArray[np.bool_]
    sometimes: NDArray[np.bool_]
    first: str
    largest: NDArray[np.float64]


def find_missing(
    frames: Frames,
    recording: Recording,
    channels: tuple[int, ...],
    simulations: Sequence[int] | None = None,
    every: int = 1,
) -> MissingValues:
    """Go through frames once and find values that are missing.

    Args:
        frames: Frames of the recording that are used, `(S, T, C', *N')`.
        recording: Content of the file, for names.
        channels: Numbers of the channels that are used.
        simulations: Numbers of the simulations in the file, if only some are used.
        every: Number of frames of the file from one that is used to the next.

    Raises:
        DataError: There are infinite values.
    """
    numbers = range(frames.shape[0]) if simulations is None else simulations
    shape = (len(channels), *frames.shape[3:])
    counts, first, largest = np.zeros(frames.shape[0], dtype=np.int64), "", np.zeros(len(channels))
    always, sometimes = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    space = tuple(range(3, frames.ndim))
    for block in blocks(frames):
        highest = _largest(block.states, channels)
        if np.isfinite(highest).all():
            largest, always = np.maximum(largest, highest), np.zeros_like(always)
            continue
        states = block.states[:, :, list(channels)]
        absent = np.isnan(states)
        place = (numbers[block.simulations], range(0, recording.frames.shape[1], every)[block.times])
        infinite = np.isinf(states)
        require_data(
            not infinite.any(),
            f"{recording.name} holds infinite values, the first at {_place(infinite, recording, channels, place)}: leave out "
            "that simulation, which diverged, by simulations, or mend the file.",
        )
        first = first or _place(absent, recording, channels, place)
        counts[block.simulations] += absent.sum(axis=(1, 2, *space))
        sometimes |= absent.any(axis=(0, 1))
        always &= absent.all(axis=(0, 1))
        largest = np.fmax(largest, np.fmax.reduce(np.abs(states), axis=(0, 1, *space)))
    return MissingValues(counts, always, sometimes, first, largest)


def _largest(states: Array, channels: tuple[int, ...]) -> NDArray[np.float64]:
    """Find the largest value of each channel, without its sign; NaN where some are missing."""
    ends = [(states[:, :, channel].min(), states[:, :, channel].max()) for channel in channels]
    return np.asarray(np.abs(np.array(ends, dtype=np.float64)).max(axis=1))


def _place(
    where: NDArray[np.bool_], recording: Recording, channels: tuple[int, ...], numbers: tuple[Sequence[int], Sequence[int]]
) -> str:
    """Name the first place in a block, whose simulations and frames have these numbers in the file; empty if there is none."""
    found = np.argwhere(where)[:1].tolist()
    if not found:
        return ""
    simulation, time, channel, *point = found[0]
    name = recording.channels[channels[channel]]
    return f"simulation {numbers[0][simulation]}, frame {numbers[1][time]}, {name}, point ({', '.join(map(str, point))})"


def without_values(frames: Frames) -> MissingValues:
    """Go through states that a user's function made, and find values that are missing, which it returns as NaN."""
    counts, first = np.zeros(frames.shape[0], dtype=np.int64), ""
    for block in blocks(frames):
        absent = np.isnan(block.states)
        counts[block.simulations] += absent.sum(axis=tuple(range(1, absent.ndim)))
        found = np.argwhere(absent)[:1].tolist()
        if found and not first:
            simulation, time = block.simulations.start + found[0][0], block.times.start + found[0][1]
            first = f"simulation {simulation}, frame {time} of those that are taken"
    nowhere = np.zeros(frames.shape[2:], dtype=bool)
    return MissingValues(counts, nowhere, counts.any() | nowhere, first, np.zeros(frames.shape[2]))


def keep_whole(missing: MissingValues, response: Missing, what: str) -> NDArray[np.intp]:
    """Respond to values that are missing; return the numbers of the simulations that are used.

    Raises:
        DataError: They are not to be missing, or the response does not help.
    """
    count, everywhere = int(missing.counts.sum()), np.arange(len(missing.counts))
    fixed = bool((missing.always == missing.sometimes).all())
    if not count or response == "unobserved" or (response == "mask" and fixed):
        return everywhere
    whole = np.flatnonzero(missing.counts == 0)
    having = len(missing.counts) - len(whole)
    words = f"{what} has {count} values that are missing (NaN), in {having} of {len(missing.counts)} simulations, the first at "
    words += missing.first
    drop = "missing: drop leaves out those simulations" if len(whole) else "every simulation has some, so fill them in the file"
    remedy = "missing: mask takes these points for masked" if fixed else drop
    require_data(response != "refuse", f"{words}: {remedy}; missing: unobserved takes them for not observed.")
    require_data(response != "mask", f"{words}, and not at the same points in every frame, so that no mask has them: {drop}.")
    require_data(len(whole) > 0, f"{words}, and none is left if those are dropped: fill the values in the file.")
    return whole


def require_in_range(largest: Any, spec: SolverSpec, what: str) -> None:
    """Refuse numbers that are too large for a solver's type.

    Args:
        largest: Bounds of values, without their sign.
        spec: Spec of the solver.
        what: Name of the data, for messages.
    """
    require_data(
        bool((largest <= np.finfo(spec.dtype).max).all()),
        f"{what} holds numbers too large for {spec.dtype}, in which solver {spec.name!r} takes its states: use a solver of "
        "float64, or other units.",
    )
