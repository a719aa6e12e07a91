"""Order of a file's states that is a solver's: channels chosen, axes in its order and direction, none of one point more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.datasets.frames import Frames, LazyFrames, MappedFrames
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.solver.spec import SolverSpec

#: Positions of a channel's points along an axis, by channel and axis.
Positions = Mapping[tuple[int, int], NDArray[np.float64]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Arrangement:
    """Change of order that takes a file's states, their mask and their positions to a solver's order, all of them alike.

    Args:
        channels: Numbers of the file's channels, in the solver's order.
        axes: Numbers of the file's axes, likewise.
        turned: True for each of these axes that runs the other way in the solver.
        boxes: Lengths of the array that each channel fills; padding behind it stays behind it.
    """

    channels: tuple[int, ...]
    axes: tuple[int, ...]
    turned: tuple[bool, ...]
    boxes: tuple[tuple[int, ...], ...]

    def __call__(self, states: NDArray[Any]) -> NDArray[Any]:
        """Arrange states of the file, or their mask: `(B, C', *N')` to `(B, C, *N)`."""
        in_order = self.channels == tuple(range(states.shape[1]))
        return self.arrange_axes(states if in_order else states[:, list(self.channels)])

    def arrange_axes(self, states: NDArray[Any]) -> NDArray[Any]:
        """Arrange the axes of states whose channels are chosen already: `(B, C, *N')` to `(B, C, *N)`."""
        states = states.transpose(0, 1, *(axis + 2 for axis in self.axes))
        around = [axis + 1 for axis, turned in enumerate(self.turned) if turned]
        if not around:
            return states
        made = states.copy()
        for channel, box in enumerate(self.boxes):
            place: tuple[Any, ...] = (slice(None), channel, *map(slice, box))
            made[place] = np.flip(states[place], tuple(around))
        return made

    def points(self, channel: int, axis: int, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Arrange the positions of a channel's points along an axis."""
        return positions[: self.boxes[channel][axis]][::-1] if self.turned[axis] else positions

    def is_identity(self, channels: int) -> bool:
        """Tell an arrangement that changes nothing in states of a number of channels."""
        return self.channels == tuple(range(channels)) and list(self.axes) == sorted(self.axes) and not any(self.turned)


def arrangement_of(
    recording: Recording, channels: tuple[int, ...], axes: tuple[int, ...], spec: SolverSpec, positions: Positions
) -> tuple[Arrangement, tuple[str, ...]]:
    """Find the arrangement of a recording's states that is a solver's.

    Args:
        recording: Content of a file.
        channels: Numbers of its channels, in the solver's order.
        axes: Numbers of its axes, likewise.
        spec: Spec of the solver.
        positions: Positions of the solver's points that its spec does not say.

    Returns:
        Arrangement, and sentences on axes that are turned around, or of which the solver does not say which way they run.
    """
    turned, notes = [], []
    comparable = len(axes) == len(spec.state_shape) - 1
    for place, axis in enumerate(axes):
        points, way = recording.coordinates[axis], _rises(spec, positions, place) if comparable else None
        falls = points is not None and len(points) > 1 and bool(points[0] > points[-1])
        turned.append(points is not None and len(points) > 1 and way is not None and falls == way)
        name, ends = recording.axes[axis], f" ({points[0]:.6g} to {points[-1]:.6g})" if points is not None else ""
        if turned[-1]:
            notes.append(f"{recording.name}: {name} {'falls' if falls else 'rises'}{ends} and is turned around.")
        elif falls and way is None:
            notes.append(
                f"{recording.name}: {name} falls{ends} and is taken so, as solver {spec.name!r} names no spacing of its axes."
            )
    mask = np.ones(tuple(recording.frames.shape[2:]), dtype=bool) if recording.mask is None else recording.mask
    mask = mask[list(channels)].transpose(0, *(axis + 1 for axis in axes))
    padded = boxes(mask) if mask.ndim == len(spec.state_shape) and len(mask) == spec.state_shape[0] else ()
    own = boxes(spec.active()) if padded else ()
    filled = tuple(box if ours != spec.state_shape[1:] else mask.shape[1:] for box, ours in zip(padded, own, strict=True))
    return (
        Arrangement(channels=channels, axes=axes, turned=tuple(turned), boxes=filled or (mask.shape[1:],) * len(mask)),
        tuple(notes),
    )


def _rises(spec: SolverSpec, positions: Positions, axis: int) -> bool | None:
    """Tell which way an axis of a solver runs; None if nobody says."""
    if spec.spacing:
        return spec.spacing[axis] > 0
    points = positions.get((0, axis))
    return None if points is None or len(points) < 2 else bool(points[0] < points[-1])


def boxes(mask: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    """Return the lengths of the array that each channel fills: all of it, unless what lies behind is padding.

    Fields of different staggering share one array, in which the longest reach the ends. A mask of another form is one of
    places, such as land, which are part of the grid.

    Args:
        mask: True where states hold values, bool `(C, *N)`.
    """
    whole = mask.shape[1:]
    ends = [tuple(int(places.max(initial=-1)) + 1 for places in np.nonzero(active)) for active in mask]
    if tuple(np.max(ends, axis=0).tolist()) != whole:
        return (whole,) * len(mask)
    filled = (all(end) and bool(active[tuple(map(slice, end))].all()) for active, end in zip(mask, ends, strict=True))
    return tuple(end if padding else whole for end, padding in zip(ends, filled, strict=True))


@dataclass(frozen=True)
class _Reshape:
    """Function of states to states without some axes of one point."""

    shape: tuple[int, ...]

    def __call__(self, states: Array) -> Array:
        return states.reshape(len(states), *self.shape)


def drop_single_points(recording: Recording, spec: SolverSpec | None, settings: DataSource) -> Recording:
    """Leave out axes of one point, such as a level, that a solver does not have; without a solver, all that nobody names.

    Args:
        recording: Content of a file.
        spec: Spec of the solver; None for none.
        settings: Words on the file; axes that they rename are named.

    Returns:
        The recording, with a sentence for each axis that was left out among its notes.
    """
    renamed = settings.axes if isinstance(settings.axes, dict) else {}
    grid = recording.frames.shape[3:]
    known = renamed.values() if spec is None else spec.axes
    single = [place for place, name in enumerate(recording.axes) if grid[place] == 1 and renamed.get(name, name) not in known]
    surplus = len(grid) - (1 if spec is None else len(spec.state_shape) - 1)
    if surplus <= 0 or not single or (spec is not None and len(single) < surplus):
        return recording
    dropped = single[:surplus]
    kept = [place for place in range(len(grid)) if place not in dropped]
    shape = (recording.frames.shape[2], *(grid[place] for place in kept))
    of_axes: dict[str, Any] = {
        key: _of(getattr(recording, key), kept) for key in ("axes", "axis_units", "coordinates", "periodic")
    }
    return replace(
        recording,
        frames=_reshape(recording.frames, shape),
        **of_axes,
        offsets=tuple(_of(row, kept) for row in recording.offsets),
        mask=None if recording.mask is None else recording.mask.reshape(shape),
        notes=(*recording.notes, *(_note_axis(recording, place) for place in dropped)),
    )


def _reshape(frames: Frames, shape: tuple[int, ...]) -> Frames:
    if not isinstance(frames, LazyFrames):
        return frames.reshape(*frames.shape[:2], *shape)
    return MappedFrames(frames, _Reshape(shape), shape, frames.dtype)


def _of(entries: Sequence[Any], kept: Sequence[int]) -> tuple[Any, ...]:
    return tuple(entries[place] for place in kept)


def _note_axis(recording: Recording, place: int) -> str:
    points, unit = recording.coordinates[place], recording.axis_units[place]
    where = "" if points is None else f", at {points[0]:.6g}{unit and f' {unit}'}"
    return f"{recording.name}: axis {recording.axes[place]} has one point{where}, and is left out."
