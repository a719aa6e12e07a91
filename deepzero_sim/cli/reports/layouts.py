"""Layout of states for pictures: what their channels and axes are called, where points lie, and which of them hold values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.units import with_amount, with_unit
from deepzero_sim.solver.spec import SolverSpec

if TYPE_CHECKING:
    from deepzero_sim.training.runs.comparison import Comparison

#: Letters of a scenario or name in a title, before it is cut.
LONGEST_TITLE, LONGEST_NAME = 110, 40


@dataclass(frozen=True, eq=False, kw_only=True)
class Axis:
    """Axis of a picture.

    Args:
        name: Name of the axis.
        unit: Unit of its positions, empty if unknown.
        positions: Positions of the points, ascending; their places in the array if `known` is False.
        known: True if positions are those of the domain.
    """

    name: str
    unit: str
    positions: NDArray[np.float64]
    known: bool

    @property
    def label(self) -> str:
        """Name with the unit, or with the word index where no positions are known."""
        return label_of(self.name, self.unit) if self.known else f"{plain(self.name)} (index)"

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the cells around the points, one more than there are points."""
        points = self.positions
        if len(points) < 2:
            return np.array([points[0] - 0.5, points[0] + 0.5])
        middles = (points[1:] + points[:-1]) / 2
        return np.concatenate([[2 * points[0] - middles[0]], middles, [2 * points[-1] - middles[-1]]])

    @property
    def is_uniform(self) -> bool:
        """Tell whether points lie equally far apart."""
        steps = np.diff(self.positions)
        return len(steps) < 2 or bool(np.allclose(steps, steps.mean(), rtol=1e-3, atol=0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Layout:
    """Names, units and places of what states `(C, *N)` hold.

    Args:
        channels: Name of each channel.
        units: Unit of each channel, empty if unknown.
        axes: Name of each spatial axis.
        axis_units: Unit of each axis, empty if unknown.
        positions: Positions of the points by channel and axis, None where unknown.
        mask: True where a state holds a value, bool `(C, *N)`.
        periodic: True for an axis that wraps around, False for one that does not, None if unknown.
        parameters: Name of each scenario parameter.
        parameter_units: Unit of each parameter, empty if unknown.
        time_unit: Unit of time, empty if unknown.
        is_staggered_flow: True of plane velocities on the faces of a staggered grid, of which vorticity is drawn.
    """

    channels: tuple[str, ...]
    units: tuple[str, ...]
    axes: tuple[str, ...]
    axis_units: tuple[str, ...]
    positions: tuple[tuple[NDArray[np.float64] | None, ...], ...]
    mask: NDArray[np.bool_]
    periodic: tuple[bool | None, ...]
    parameters: tuple[str, ...] = ()
    parameter_units: tuple[str, ...] = ()
    time_unit: str = ""
    is_staggered_flow: bool = False

    def axis(self, channel: int, number: int) -> Axis:
        """Return an axis of a channel, with positions in the order of the array."""
        points, name, unit = self.positions[channel][number], self.axes[number], self.axis_units[number]
        if points is None or not _is_monotonic(points):
            return Axis(name=name, unit="", positions=np.arange(self.mask.shape[1 + number], dtype=float), known=False)
        return Axis(name=name, unit=unit, positions=points, known=True)

    def label(self, channel: int) -> str:
        """Name of a channel with its unit."""
        return label_of(self.channels[channel], self.units[channel])

    def scenario(self, params: Array | None) -> str:
        """Write the parameters of a simulation, `(K,)`, as far as a title has room for them."""
        if params is None or not self.parameters:
            return ""
        units = self.parameter_units or ("",) * len(self.parameters)
        named = [
            f"{plain(_cut(name))} = {amount(f'{value:.4g}', unit)}"
            for name, value, unit in zip(self.parameters, params, units, strict=True)
        ]
        return join_some(named, LONGEST_TITLE)

    def time(self, time: float) -> str:
        """Write a time, rounded, with its unit."""
        return f"t = {amount(f'{time:.6g}', self.time_unit)}"

    @property
    def time_label(self) -> str:
        """Name of an axis of times, with their unit."""
        return label_of("time", self.time_unit)


def layout_of_spec(spec: SolverSpec) -> Layout:
    """Return the layout of a solver's states."""
    channels, *grid = spec.state_shape
    positions = tuple(
        tuple(spec.coordinates(c, a) if spec.spacing else None for a in range(len(grid))) for c in range(channels)
    )
    return Layout(
        channels=spec.channels or _unnamed_channels(channels),
        units=spec.channel_units or ("",) * channels,
        axes=spec.axes or tuple(f"axis {i}" for i in range(len(grid))),
        axis_units=("",) * len(grid),
        positions=positions,
        mask=spec.active(),
        periodic=(None,) * len(grid),
        parameters=spec.parameters,
        parameter_units=spec.parameter_units,
        time_unit=spec.time_unit,
        is_staggered_flow=is_staggered_flow(spec.channels, spec.offsets),
    )


def layout_of_comparison(comparison: Comparison) -> Layout:
    """Return the layout of a comparison's states, in the unit of time of its data."""
    layout = layout_of_spec(comparison.spec)
    return replace(layout, time_unit=comparison.time_unit or layout.time_unit)


def layout_of_recording(recording: Recording) -> Layout:
    """Return the layout of a recording's frames."""
    channels, *grid = recording.frames.shape[2:]
    mask = np.ones((channels, *grid), dtype=bool) if recording.mask is None else recording.mask
    return Layout(
        channels=recording.channels,
        units=recording.channel_units,
        axes=recording.axes,
        axis_units=recording.axis_units,
        positions=tuple(tuple(recording.positions(c, a) for a in range(len(grid))) for c in range(channels)),
        mask=mask,
        periodic=recording.periodic,
        parameters=recording.parameters,
        parameter_units=recording.parameter_units,
        time_unit=recording.time_unit,
        is_staggered_flow=is_staggered_flow(recording.channels, recording.offsets),
    )


def is_staggered_flow(channels: tuple[str, ...], offsets: tuple[tuple[float, ...], ...]) -> bool:
    """Tell whether states are plane velocities on the faces of a staggered grid, as those of the wake."""
    if channels != ("velocity_y", "velocity_x") or len(offsets) != 2 or len(offsets[0]) != 2:
        return False
    return bool(np.allclose(np.subtract(offsets[1], offsets[0]), (0.5, -0.5)))


def _unnamed_channels(channels: int) -> tuple[str, ...]:
    return ("state",) if channels == 1 else tuple(f"channel {i}" for i in range(channels))


def _is_monotonic(points: NDArray[np.float64]) -> bool:
    steps = np.diff(points)
    return bool(np.isfinite(points).all() and ((steps > 0).all() or (steps < 0).all()))


# ---- words of titles


def plain(text: str) -> str:
    """Return text that matplotlib takes as it is: dollars do not begin formulas, and lines do not break."""
    return re.sub(r"(?<!\\)\$", r"\\$", " ".join(text.split()))


def label_of(name: str, unit: str) -> str:
    """Write a name with its unit in brackets, for a figure."""
    return with_unit(plain(_cut(name)), plain(_cut(unit)))


def amount(number: str, unit: str) -> str:
    """Write a number with its unit behind it, for a figure."""
    return with_amount(number, plain(_cut(unit)))


def join_some(words: Sequence[str], longest: int) -> str:
    """Join words by commas up to a length, and count those that are left out."""
    shown: list[str] = []
    for word in words:
        if shown and sum(map(len, shown)) + 2 * len(shown) + len(word) > longest:
            return f"{', '.join(shown)} and {len(words) - len(shown)} more"
        shown.append(word)
    return ", ".join(shown)


def _cut(name: str) -> str:
    """Shorten a name, by whole words if it has several."""
    cut = shorten(name, LONGEST_NAME, placeholder=" ...") if len(name) > LONGEST_NAME else name
    return f"{name[: LONGEST_NAME - 3]}..." if cut.strip() == "..." else cut
