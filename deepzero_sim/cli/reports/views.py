"""Views of states: pictures `(up, across)` or lines of a channel, of a plane of it in 3-D, or of a plane flow's vorticity."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.cli.reports.layouts import Axis, Layout, amount, plain
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.units import unit_to_show

#: Picture of a state in float64: `(across,)` or `(up, across)`, the first row lowest.
Picture = NDArray[np.float64]

#: Axes that lie across a picture before others, those that stand upright before others; in between, the last one is across.
_ACROSS = {"x": 0, "lon": 0, "longitude": 0, "east": 0, "r": 0, "radius": 0, "y": 2, "lat": 2, "latitude": 2, "north": 2}
_UPRIGHT = {"z": 3, "height": 3, "altitude": 3, "depth": 3, "lev": 3, "level": 3}

#: Axes whose numbers rise downwards, as they do in the sea.
_DOWNWARDS = ("depth",)

#: Axes whose neighbours in the array need not be neighbours in space.
_UNORDERED = ("point", "points", "cell", "cells", "node", "nodes", "element", "elements", "n_points", "ncol")

#: Channels that have a figure of their own.
MOST_CHANNELS = 12


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """One way to draw states.

    Args:
        key: End of a file's name that tells this view from others; empty for the first one.
        label: Quantity with its unit.
        plane: Plane that is drawn of a state in 3-D or more, empty in others.
        across: Horizontal axis.
        up: Vertical axis; None of lines.
        active: True where the picture shows a value, of a picture's shape.
        convert: Function that returns the picture of a state `(C, *N)`.
        is_vorticity: True of a plane flow's vorticity.
        may_be_to_scale: False if the axes are of different kinds, such as space and time.
    """

    key: str
    label: str
    plane: str
    across: Axis
    up: Axis | None
    active: NDArray[np.bool_]
    convert: Callable[[Array], Picture]
    is_vorticity: bool = False
    may_be_to_scale: bool = True

    @property
    def title(self) -> str:
        """Quantity, and the plane if there is one."""
        return f"{self.label} at {self.plane}" if self.plane else self.label

    @property
    def is_line(self) -> bool:
        """True of what is drawn as lines."""
        return self.up is None

    @property
    def is_point(self) -> bool:
        """True of a single point, whose values are drawn over time."""
        return self.up is None and len(self.across.positions) == 1

    def over_time(self, times: NDArray[np.float64], label: str) -> View:
        """Return the view of a single point's values over time, as lines.

        Args:
            times: Times of the values.
            label: Name of the axis of times, with its unit.
        """
        active = np.full(len(times), bool(self.active.all()))
        return replace(self, across=Axis(name=label, unit="", positions=times, known=True), active=active)

    @property
    def is_unordered(self) -> bool:
        """True of points that no line should join."""
        return self.up is None and not self.across.known and self.across.name.lower() in _UNORDERED

    @property
    def has_space_time(self) -> bool:
        """True of lines that have a picture of space and time."""
        return self.is_line and not self.is_point and not self.is_unordered

    @property
    def points_down(self) -> bool:
        """True if the vertical axis rises downwards."""
        return self.up is not None and self.up.name.lower() in _DOWNWARDS

    @property
    def to_scale(self) -> bool:
        """True if both axes have the same scale; not of those of different units, or of a picture that would be a stripe."""
        if self.up is None or not self.may_be_to_scale or self.up.unit != self.across.unit:
            return False
        return 1 / 8 <= self._ratio() <= 8

    @property
    def ratio(self) -> float:
        """Width of a picture by its height."""
        return self._ratio() if self.to_scale else 1.6

    def _ratio(self) -> float:
        assert self.up is not None
        width, height = (float(np.ptp(axis.edges)) for axis in (self.across, self.up))
        return width / height


def views(layout: Layout) -> list[View]:
    """Return the views of states: the vorticity of a staggered plane flow; each channel; in 3-D, all planes of the first."""
    channels = range(min(len(layout.channels), MOST_CHANNELS))
    found = [_vorticity(layout)] if layout.is_staggered_flow else []
    for channel in channels:
        planes = _planes(layout, channel)
        found += planes if channel == 0 else planes[:1]
    return [replace(found[0], key=""), *_unique(found[1:])]


def channel_views(layout: Layout) -> list[View]:
    """Return one view of each channel, named by it, in 3-D of its first plane."""
    return _unique([_planes(layout, channel)[0] for channel in range(min(len(layout.channels), MOST_CHANNELS))])


def _unique(found: Sequence[View]) -> list[View]:
    """Give views whose names would be those of one file different ones."""
    keys: dict[str, int] = {}
    result = []
    for view in found:
        count = keys[view.key.lower()] = keys.get(view.key.lower(), 0) + 1
        result.append(view if count == 1 else replace(view, key=f"{view.key}_{count}"))
    return result


def file_word(name: str) -> str:
    """Return a name as a part of a file's name: other letters than those of programs become underscores."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.")[:40] or "channel"


def _planes(layout: Layout, channel: int) -> list[View]:
    """Return the views of a channel: one in 1-D and 2-D, one for each axis that planes are normal to in 3-D.

    Axes of a single point do not count: states with no other axes are lines, or single points.
    """
    mask, name = layout.mask[channel], file_word(layout.channels[channel])
    long = [axis for axis in range(mask.ndim) if len(range(*_bounds(mask, axis).indices(mask.shape[axis]))) > 1]
    if len(long) <= 2:
        return [_view(layout, channel, long or [mask.ndim - 1], name)]
    if len(long) > 3:
        return [_view(layout, channel, long[-2:], name)]
    normals = sorted(long, key=lambda axis: (-_rank(layout.axes[axis]), axis))
    views_of_planes = [(normal, [axis for axis in long if axis != normal]) for normal in normals]
    return [
        _view(layout, channel, axes, name if i == 0 else f"{name}_{file_word(layout.axes[normal])}")
        for i, (normal, axes) in enumerate(views_of_planes)
    ]


def _view(layout: Layout, channel: int, axes: list[int], key: str) -> View:
    """Return the view of a channel along one or two axes, through the middle of all others."""
    mask = layout.mask[channel]
    bounds = [_bounds(mask, axis) for axis in range(mask.ndim)]  # padding of staggered channels is no part of the picture
    middles = _middles(mask, [axis for axis in range(mask.ndim) if axis not in axes])
    across, up = _orient(layout.axes, axes)
    ordered = [across] if up is None else [up, across]
    every = [layout.axis(channel, a) for a in range(mask.ndim)]
    cut = {a: replace(every[a], positions=every[a].positions[bounds[a]]) for a in ordered}
    flipped = [n for n, a in enumerate(ordered) if len(cut[a].positions) > 1 and cut[a].positions[0] > cut[a].positions[-1]]

    def take(values: NDArray[Any]) -> NDArray[Any]:
        where = tuple(middles.get(a, bounds[a]) for a in range(mask.ndim))
        plane = values[where]
        if up is not None and across < up:
            plane = plane.T
        return np.asarray(np.flip(plane, tuple(flipped)))

    def ascending(axis: int) -> Axis:
        return replace(cut[axis], positions=np.sort(cut[axis].positions))

    places = [_place(every[a], place) for a, place in middles.items() if every[a].known or len(every[a].positions) > 1]
    return View(
        key=key,
        label=layout.label(channel),
        plane=", ".join(places),
        across=ascending(across),
        up=None if up is None else ascending(up),
        active=take(mask).astype(bool),
        convert=lambda state: take(np.asarray(state)[channel]).astype(np.float64),
    )


def _bounds(mask: NDArray[np.bool_], axis: int) -> slice:
    """Return the part of an axis from the first to the last place that holds a value anywhere."""
    held = np.flatnonzero(_count_along(mask, axis))
    return slice(int(held[0]), int(held[-1]) + 1) if held.size else slice(0, mask.shape[axis])


def _count_along(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """Count the points with a value at each place along an axis."""
    return np.asarray(mask.sum(axis=tuple(a for a in range(mask.ndim) if a != axis)))


def _middles(mask: NDArray[np.bool_], axes: Sequence[int]) -> dict[int, int]:
    """Return where planes cut some axes: nearest to the middle, of the places with half as many values as any has."""
    middles = {}
    for axis in axes:
        counts, bounds = _count_along(mask, axis), _bounds(mask, axis)
        middle = (bounds.start + bounds.stop) // 2
        places = np.flatnonzero(2 * counts >= counts.max())
        place = middles[axis] = int(places[np.abs(places - middle).argmin()])
        mask = np.where(
            np.arange(mask.shape[axis]).reshape([-1 if a == axis else 1 for a in range(mask.ndim)]) == place, mask, False
        )
    return middles


def _place(axis: Axis, index: int) -> str:
    """Write where along an axis a plane lies."""
    name = plain(axis.name)
    return f"{name} = {amount(f'{axis.positions[index]:.4g}', axis.unit)}" if axis.known else f"{name} = point {index}"


def _rank(name: str) -> float:
    return {**_ACROSS, **_UPRIGHT}.get(name.lower(), 1)


def _orient(names: Sequence[str], axes: Sequence[int]) -> tuple[int, int | None]:
    """Return the axes that lie across a picture and stand upright, by their names."""
    if len(axes) == 1:
        return axes[0], None
    across, up = sorted(axes, key=lambda axis: (_rank(names[axis]), -axis))
    return across, up


def _vorticity(layout: Layout) -> View:
    """Return the view of a staggered plane flow's vorticity, at the inner corners of cells."""
    y, x = layout.axis(0, 0), layout.axis(1, 1)
    spacing = tuple(float(axis.positions[1] - axis.positions[0]) for axis in (y, x))
    up, across = (replace(axis, positions=axis.positions[1:-1]) for axis in (y, x))
    return View(
        key="vorticity",
        label=f"vorticity (1/{plain(unit_to_show(layout.time_unit)) or 'time'})",
        plane="",
        across=across,
        up=up,
        active=np.ones((len(up.positions), len(across.positions)), dtype=bool),
        convert=lambda state: vorticity(np.asarray(state, dtype=np.float64), spacing),
        is_vorticity=True,
    )


def vorticity(state: Picture, spacing: Sequence[float]) -> Picture:
    """Compute `d v_y / dx - d v_x / dy` at inner corners of cells, `(H-1, W-1)`, of `(2, H+1, W+1)` staggered velocities."""
    dy, dx = spacing
    v_y, v_x = state[0, 1:-1, :-1], state[1, :-1, 1:-1]
    with np.errstate(invalid="ignore", over="ignore"):  # of a rollout that diverged there is nothing to draw
        curl: Picture = (v_y[:, 1:] - v_y[:, :-1]) / dx - (v_x[1:] - v_x[:-1]) / dy
    return curl
