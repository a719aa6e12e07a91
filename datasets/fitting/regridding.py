"""Grids of states, and restrictions of whole states from one to another, channel by channel and axis by axis."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_known
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.fitting.arrangement import Arrangement, Positions, boxes
from deepzero_sim.datasets.fitting.restriction import RESTRICTIONS, Points, UnsuitableError, Weights, restrict_axis, same
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.errors import DataError
from deepzero_sim.solver.spec import SolverSpec

#: Remedy where no restriction by name suits.
_BY_FUNCTION = "restrict it by a function of yours, restrict(states, spec)"


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """Points of states.

    Args:
        mask: True where a state holds values, bool `(C, *N)`.
        channels: Name of each channel.
        axes: Name of each axis.
        positions: Positions of a channel's points along an axis, as far as they are known.
        has_origin: True if positions tell where the first point lies, False if they tell only distances.
        periodic: True for an axis that wraps around, False for one that does not, None where nobody says.
        on_faces: True for a channel's points on faces along an axis, False for points in cells, as far as it is known.
    """

    mask: NDArray[np.bool_]
    channels: tuple[str, ...]
    axes: tuple[str, ...]
    positions: Mapping[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)
    has_origin: bool = True
    periodic: tuple[bool | None, ...] = ()
    on_faces: Mapping[tuple[int, int], bool] = field(default_factory=dict)

    @cached_property
    def _boxes(self) -> tuple[tuple[int, ...], ...]:
        return boxes(self.mask)

    def box(self, channel: int) -> tuple[int, ...]:
        """Return the lengths of the array that a channel fills; the whole shape unless all else is padding behind it."""
        return self._boxes[channel]

    def points(self, channel: int, axis: int) -> Points:
        """Return the points of a channel along an axis, without padding."""
        count, positions = self.box(channel)[axis], self.positions.get((channel, axis))
        return Points(
            count=count,
            positions=None if positions is None else positions[:count],
            has_origin=self.has_origin,
            periodic=self.periodic[axis] if self.periodic else None,
            on_faces=self.on_faces.get((channel, axis)),
        )


def grid_of_solver(
    spec: SolverSpec, positions: Positions | None = None, *, compare_positions: bool = True, compare_origin: bool = True
) -> Grid:
    """Collect the grid of a solver.

    Args:
        spec: Spec of the solver.
        positions: Positions of its points that the spec does not say; None for none.
        compare_positions: False if the positions of its points are not to be held against those of a file.
        compare_origin: False if only their distances are.
    """
    places = list(np.ndindex(spec.state_shape[0], len(spec.state_shape) - 1))
    shares = {place: spec.offsets[place[0]][place[1]] % 1.0 for place in places} if spec.offsets else {}
    own = {place: spec.coordinates(*place) for place in places} if spec.spacing else positions or {}
    return Grid(
        mask=spec.active(),
        channels=spec.channel_names,
        axes=spec.axis_names,
        positions=own if compare_positions else {},
        has_origin=(bool(spec.offsets) or not spec.spacing) and compare_origin,
        on_faces={place: share == 0.0 for place, share in shares.items() if share in {0.0, 0.5}},
    )


def explain_offsets(name: str | None, spec: SolverSpec) -> str:
    """Say that positions are half a cell off, where points are centres of cells and a spec says no offsets; empty elsewhere.

    Args:
        name: Restriction to the solver's grid.
        spec: Spec of the solver.
    """
    if name != "block_mean" or not spec.spacing or spec.offsets:
        return ""
    row = [0.5] * len(spec.spacing)
    return (
        f"the spec of solver {spec.name!r} has a spacing but no offsets, so that positions begin at 0, while block_mean makes "
        f"means over cells: give it offsets of {row} for each channel, or positions are half a cell off."
    )


def grid_of_recording(recording: Recording, arrangement: Arrangement, axes: tuple[str, ...]) -> Grid:
    """Collect the grid of a recording as it is arranged.

    Args:
        recording: Content of a file.
        arrangement: Order of its channels and axes.
        axes: Names of the axes, in that order.
    """
    shape = tuple(recording.frames.shape[2:])
    mask = np.ones(shape, dtype=bool) if recording.mask is None else recording.mask
    positions = {}
    for c, channel in enumerate(arrangement.channels):
        for a, axis in enumerate(arrangement.axes):
            found = recording.positions(channel, axis)
            if found is not None:
                positions[c, a] = arrangement.points(c, a, found)
    return Grid(
        mask=arrangement(mask[None])[0],
        channels=tuple(recording.channels[channel] for channel in arrangement.channels),
        axes=axes,
        positions=positions,
        periodic=tuple(recording.periodic[axis] for axis in arrangement.axes),
    )


class Restriction:
    """Restriction of states from one grid to another.

    Args:
        name: Name of the restriction, one of :data:`RESTRICTIONS`; None for none, between grids that must be the same.
        fine: Grid of the states.
        coarse: Grid to restrict them to, with the same channels and axes.
        what: Name of the data, for messages.
        solver: Name of the solver, for messages.
        if_shifted: Advice where positions differ by a shift only.

    Attributes:
        mask: True where restricted states have values, bool `(C, *N)`.

    Raises:
        DataError: The grids do not allow it.
        ConfigError: There is no restriction of that name.
    """

    def __init__(self, name: str | None, fine: Grid, coarse: Grid, what: str, solver: str, if_shifted: str = "") -> None:
        if name is not None:
            require_known([name], [*RESTRICTIONS, "file.py:Name"], "restrict")
        try:
            self._weights = _weights(name, fine, coarse)
        except UnsuitableError as error:
            advice = if_shifted if _suits(name, replace(fine, has_origin=False), coarse) else ""
            raise DataError(_sentence(name, fine, coarse, what, solver, str(error), advice)) from error
        self._boxes = [(fine.box(channel), coarse.box(channel)) for channel in range(len(coarse.channels))]
        self._shape = coarse.mask.shape
        turned = any(_turns(weights) for row in self._weights for weights in row)
        self.is_identity = name is None and not turned and fine.mask.shape == self._shape
        missing = self._apply(~fine.mask[None], [[abs(weights) for weights in row] for row in self._weights])
        self.mask: NDArray[np.bool_] = (missing[0] == 0) & self._inside()

    def __call__(self, states: Array) -> NDArray[np.float64]:
        """Restrict states `(B, C, *N)` to those of the coarse grid, in float64; padding is zero."""
        return self._apply(states, self._weights)

    def _apply(self, states: NDArray[Any], weights: list[list[Weights]]) -> NDArray[np.float64]:
        made = np.zeros((len(states), *self._shape))
        for channel, ((fine, coarse), row) in enumerate(zip(self._boxes, weights, strict=True)):
            values = states[_box(fine, channel)]
            for axis, along in enumerate(row):
                values = restrict_axis(values, along, axis + 1)
            made[_box(coarse, channel)] = values
        return made

    def _inside(self) -> NDArray[np.bool_]:
        """Mark the boxes that channels fill."""
        inside = np.zeros((1, *self._shape), dtype=bool)
        for channel, (_, coarse) in enumerate(self._boxes):
            inside[_box(coarse, channel)] = True
        marked: NDArray[np.bool_] = inside[0]
        return marked

    @property
    def largest_sum(self) -> float:
        """Largest value that states of at most 1 may become."""
        return max(float(np.prod([abs(weights).sum(axis=1).max() for weights in row])) for row in self._weights)


def _box(lengths: tuple[int, ...], channel: int) -> tuple[slice | int, ...]:
    """Return the place of a channel's values in states, `(B, C, *N)`."""
    return slice(None), channel, *map(slice, lengths)


def _turns(weights: Weights) -> bool:
    """Tell weights of a grid that is the same, but runs the other way."""
    return bool(weights.shape[0] > 1 and weights[0, 0] != 1.0)


def _weights(name: str | None, fine: Grid, coarse: Grid) -> list[list[Weights]]:
    make = same if name is None else RESTRICTIONS[name]
    weights: list[list[Weights]] = []
    for c, channel in enumerate(coarse.channels):
        weights.append([])
        for a, axis in enumerate(coarse.axes):
            try:
                weights[-1].append(make(fine.points(c, a), coarse.points(c, a)))
            except UnsuitableError as error:
                raise UnsuitableError(f"along {axis}, {channel} {error}") from error
    return weights


def _sentence(name: str | None, fine: Grid, coarse: Grid, what: str, solver: str, reason: str, advice: str) -> str:
    suited = [one for one in RESTRICTIONS if one != name and _suits(one, fine, coarse)]
    if "block_mean" in suited and "face_mean" in suited:
        suited.remove("face_mean")  # all points are in cells
    remedy = f"set restrict to what suits ({', '.join(suited)})" if suited else _swapped(name, fine, coarse) or _BY_FUNCTION
    remedy = f"{advice}, or {remedy}" if advice else remedy
    if name is None:
        return f"{what} is not on the grid of solver {solver!r}: {reason}: {remedy}, or use the solver on the grid of the data."
    return f"{what} cannot be brought to the grid of solver {solver!r} by {name}: {reason}: {remedy}."


def _swapped(name: str | None, fine: Grid, coarse: Grid) -> str:
    """Say that axes look swapped, if the points of each are on the solver's grid along another; else nothing."""
    for order in itertools.permutations(range(len(coarse.axes))):
        moved = [place for place, axis in enumerate(order) if place != axis]
        known = all((channel, axis) in fine.positions for channel in range(len(coarse.channels)) for axis in moved)
        if moved and known and _suits(name, _reorder(fine, order), coarse):
            return (
                f"its axes {' and '.join(coarse.axes[place] for place in moved)} look swapped, as positions along each fit the "
                "solver along another: say which is which by axes, or correct the order of axes in the spec of the solver"
            )
    return ""


def _reorder(grid: Grid, order: Sequence[int]) -> Grid:
    """Return a grid with its axes in another order."""
    return replace(
        grid,
        mask=grid.mask.transpose(0, *(axis + 1 for axis in order)),
        positions={(channel, order.index(axis)): points for (channel, axis), points in grid.positions.items()},
        periodic=tuple(grid.periodic[axis] for axis in order) if grid.periodic else (),
        on_faces={(channel, order.index(axis)): face for (channel, axis), face in grid.on_faces.items()},
    )


def _suits(name: str | None, fine: Grid, coarse: Grid) -> bool:
    try:
        _weights(name, fine, coarse)
    except UnsuitableError:
        return False
    return True
