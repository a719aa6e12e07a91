"""First look at data in words and numbers: what a file says of itself, and ranges of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.animation import choose
from deepzero_sim.cli.reports.layouts import layout_of_recording, plain
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.survey import NO_VALUES, Moments, combine, moments_of
from deepzero_sim.datasets.units import unit_to_show, with_amount

#: Bytes that are read for the numbers of a summary; of larger files, frames are chosen evenly.
MOST_BYTES = 256 * 2**20

#: Frames of a simulation that curves over time, and pictures of space and time, are made of.
MOST_FRAMES = 200


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of each channel at some times, over all simulations and points that were read.

    Args:
        frames: Number of frames that were read.
        of: Number of all frames.
        places: Places of the times in a simulation, `(T,)`.
        missing: Number of values that are not finite, `(T, C)`.
        lows: Least finite value, `(T, C)`; infinite if there is none.
        highs: Largest finite value, `(T, C)`; minus infinite if there is none.
        moments: Moments of the finite values, by time and channel.
    """

    frames: int
    of: int
    places: NDArray[np.int64]
    missing: NDArray[np.int64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    moments: list[list[Moments]]

    def means(self) -> NDArray[np.float64]:
        """Compute the mean at each time, `(T, C)`; NaN where nothing is finite."""
        return np.array([[one.mean if one.values else np.nan for one in row] for row in self.moments])

    def overall(self, channel: int) -> tuple[float, float, float, float]:
        """Compute least and largest value, mean and standard deviation of a channel; NaN if nothing is finite."""
        found = reduce(combine, (row[channel] for row in self.moments), NO_VALUES)
        if not found.values:
            return (np.nan,) * 4
        low, high = float(self.lows[:, channel].min()), float(self.highs[:, channel].max())
        return low, high, found.mean, found.variance**0.5


def measure(recording: Recording) -> Numbers:
    """Read frames one by one and measure them, all or so many that they stay below :data:`MOST_BYTES`.

    Args:
        recording: Data.
    """
    simulations, times, channels = recording.frames.shape[:3]
    size = int(np.prod(recording.frames.shape[2:])) * recording.frames.dtype.itemsize
    count = max(1, min(simulations * times, MOST_BYTES // max(1, size)))
    chosen = choose(simulations, simulations if count == simulations * times else max(1, int(count**0.5)))
    places = choose(times, min(MOST_FRAMES, max(1, count // len(chosen))))
    mask = layout_of_recording(recording).mask
    shape = (len(places), channels)
    numbers = Numbers(
        frames=len(chosen) * len(places),
        of=simulations * times,
        places=np.array(places),
        missing=np.zeros(shape, dtype=np.int64),
        lows=np.full(shape, np.inf),
        highs=np.full(shape, -np.inf),
        moments=[[NO_VALUES] * channels for _ in places],
    )
    for simulation in chosen:
        for row, place in enumerate(places):
            frame = np.asarray(recording.frames[simulation, place])
            for channel, held in enumerate(mask):
                _count(numbers, row, channel, frame[channel][held].astype(np.float64))
    return numbers


def _count(numbers: Numbers, row: int, channel: int, values: NDArray[np.float64]) -> None:
    """Count the values of a channel at a time."""
    finite = values[np.isfinite(values)]
    numbers.missing[row, channel] += values.size - finite.size
    if not finite.size:
        return
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers so large, no spread can be told
        numbers.moments[row][channel] = combine(numbers.moments[row][channel], moments_of(finite))
    numbers.lows[row, channel] = min(numbers.lows[row, channel], finite.min())
    numbers.highs[row, channel] = max(numbers.highs[row, channel], finite.max())


def rows(recording: Recording) -> list[list[str]]:
    """Return the table of what the data are: a head, then a row a fact."""
    simulations, times, channels, *grid = recording.frames.shape
    total, held = channels * int(np.prod(grid)), int(layout_of_recording(recording).mask.sum())
    return [
        ["", plain(Path(recording.name).name)],
        ["simulations", f"{simulations:,}, each of {times:,} frames of {recording.frames.dtype}"],
        ["points", " x ".join(map(str, grid))],
        ["times", _span(recording.times, recording.time_unit)],
        *([f"axis {name}", _axis(recording, place)] for place, name in enumerate(recording.axes)),
        *([f"parameter {name}", words] for name, words in _parameters(recording)),
        *([["points without a value", f"{total - held:,} of {total:,} in every frame"]] if held < total else []),
    ]


def channel_rows(recording: Recording, numbers: Numbers) -> list[list[str]]:
    """Return the table of channels: a head, then a row a channel with its unit, its range, and values that are missing."""
    body = [
        [name, unit_to_show(unit) or "-", *map(_number, numbers.overall(c)), f"{int(numbers.missing[:, c].sum()):,}"]
        for c, (name, unit) in enumerate(zip(recording.channels, recording.channel_units, strict=True))
    ]
    return [["channel", "unit", "least", "largest", "mean", "std", "missing"], *body]


def _number(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else "-"


def _span(values: NDArray[np.float64] | None, unit: str) -> str:
    """Write where times or positions begin and end, and how far apart they lie."""
    if values is None:
        return "unknown"
    if len(values) < 2:
        return with_amount(f"{values[0]:.6g}", unit)
    steps = np.diff(values)
    even = bool(np.allclose(steps, steps.mean(), rtol=1e-3, atol=0))
    span = with_amount(f"{values[0]:.6g} to {values[-1]:.6g}", unit)
    return f"{span}, {f'{steps.mean():.6g} apart' if even else 'unevenly spaced'}"


def _axis(recording: Recording, place: int) -> str:
    count = recording.frames.shape[3 + place]
    around = {True: ", periodic", False: "", None: ""}[recording.periodic[place]]
    return f"{count} points, {_span(recording.coordinates[place], recording.axis_units[place])}{around}"


def _parameters(recording: Recording) -> list[tuple[str, str]]:
    found = []
    for k, (name, unit) in enumerate(zip(recording.parameters, recording.parameter_units, strict=True)):
        values = np.unique(recording.params[:, k])
        some = ", ".join(f"{value:.4g}" for value in values[:6])
        more = f" ... {values[-1]:.4g} ({len(values)} values)" if len(values) > 6 else ""
        found.append((name, with_amount(f"{some}{more}", unit)))
    return found


def notes(recording: Recording, numbers: Numbers) -> Sequence[str]:
    """Return sentences on what was left out or assumed, and on how much was read."""
    found = list(recording.notes)
    if numbers.frames < numbers.of:
        found.append(f"The numbers are those of {numbers.frames:,} of {numbers.of:,} frames, chosen evenly.")
    return found
