"""A recording: the content of a foreign file, as the file itself describes it, before it is fitted to a solver.

Readers are in :mod:`deepzero_sim.datasets.foreign`, one for each layout. Nothing of a recording is resampled, converted to
other units or guessed: what a file leaves open is empty or None here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.frames import Frames
from deepzero_sim.solver.spec_values import default_names


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording:
    """Simulations or observations of a foreign file, all with the same number of frames, on one grid.

    Args:
        frames: Frames `(S, T, C, *N)`, read when they are indexed. A value that is missing is NaN; padding is zero.
        channels: Name of each of the `C` channels.
        name: Name of the data for messages: that of the file, or the one that the file has for itself.
        times: Times of the frames, `(T,)`, rising; None if the file has none.
        time_unit: Unit of time; empty if the file does not say.
        channel_units: Unit of each channel, empty text where the file does not say.
        channel_titles: Other names that the file has for each channel, such as the standard one.
        axes: Name of each spatial axis, in the order of the array.
        axis_units: Unit of each axis, empty text where the file does not say.
        coordinates: Positions of the points along each axis, None for an axis that the file has none for.
        offsets: Distance of each channel's points from `coordinates`, along each axis, in units of the spacing; empty if all
            channels lie at the coordinates.
        periodic: True for an axis that wraps around, False for one that does not, None where the file does not say.
        params: Parameters of the simulations, `(S, K)`.
        parameters: Name of each parameter.
        parameter_units: Unit of each parameter, empty text where the file does not say.
        mask: True where a frame holds values, bool `(C, *N)`; None if it does everywhere. Frames are zero elsewhere.
        missing: Number of NaN among the values of the mask, if the reader has seen them all; None if it is found on reading.
        attributes: Other facts that the file states, by name.
        notes: Sentences on what was left out or assumed, which the user has to be told.
    """

    frames: Frames
    channels: tuple[str, ...]
    name: str
    times: NDArray[np.float64] | None = None
    time_unit: str = ""
    channel_units: tuple[str, ...] = ()
    channel_titles: tuple[tuple[str, ...], ...] = ()
    axes: tuple[str, ...] = ()
    axis_units: tuple[str, ...] = ()
    coordinates: tuple[NDArray[np.float64] | None, ...] = ()
    offsets: tuple[tuple[float, ...], ...] = ()
    periodic: tuple[bool | None, ...] = ()
    params: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    parameters: tuple[str, ...] = ()
    parameter_units: tuple[str, ...] = ()
    mask: NDArray[np.bool_] | None = None
    missing: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        simulations, times, channels, *grid = self.frames.shape
        defaults: dict[str, tuple[Any, ...]] = {
            "channel_units": ("",) * channels,
            "channel_titles": ((),) * channels,
            "axes": default_names("axis", len(grid)),
            "axis_units": ("",) * len(grid),
            "coordinates": (None,) * len(grid),
            "periodic": (None,) * len(grid),
            "parameter_units": ("",) * len(self.parameters),
        }
        for key, value in defaults.items():
            if not getattr(self, key):
                object.__setattr__(self, key, value)
        if not self.parameters and not self.params.size:
            object.__setattr__(self, "params", np.zeros((simulations, 0)))
        self._require_shapes(simulations, times, channels, grid)

    def _require_shapes(self, simulations: int, times: int, channels: int, grid: list[int]) -> None:
        """Refuse names, times and coordinates that are of other frames."""
        lengths = {key: len(getattr(self, key)) for key in ("axes", "axis_units", "coordinates", "periodic")}
        expected = {
            "channels": (len(self.channels), channels),
            "channel_units": (len(self.channel_units), channels),
            "channel_titles": (len(self.channel_titles), channels),
            **{key: (length, len(grid)) for key, length in lengths.items()},
            "times": (times if self.times is None else len(self.times), times),
            "params": (self.params.shape, (simulations, len(self.parameters))),
            "parameter_units": (len(self.parameter_units), len(self.parameters)),
            "mask": ((channels, *grid) if self.mask is None else self.mask.shape, (channels, *grid)),
        }
        for key, (came, wanted) in expected.items():
            require_data(
                came == wanted,
                f"{self.name} has {key} of {came}, expected {wanted} for frames of shape {tuple(self.frames.shape)}: "
                "check what the file says of itself.",
            )
        require_data(
            bool(np.isfinite(np.array(self.offsets, dtype=np.float64)).all()),
            f"{self.name} has offsets of channels that are not finite: check what the file says of itself.",
        )
        for axis, points, length in zip(self.axes, self.coordinates, grid, strict=True):
            require_data(
                points is None or points.shape == (length,),
                f"{self.name} has {0 if points is None else len(points)} positions along {axis}, but {length} points: "
                "check what the file says of itself.",
            )

    def positions(self, channel: int, axis: int) -> NDArray[np.float64] | None:
        """Compute the positions of a channel's points along an axis; None if the file has none for that axis."""
        points = self.coordinates[axis]
        if points is None or not self.offsets or len(points) < 2:
            return points
        return np.asarray(points + self.offsets[channel][axis] * (points[1] - points[0]), dtype=np.float64)
