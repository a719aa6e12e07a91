"""Options of reading: what a user says of a foreign file that the file does not say of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepzero_sim.common.requirements import is_positive, require, require_that
from deepzero_sim.solver.spec_values import list_of, names

#: Roles of an array's axes other than those in space.
SIMULATION, TIME, CHANNEL = "simulation", "time", "channel"


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options of reading a foreign file. All of them may be left out where the file says enough.

    Args:
        format: Name of the format, of :data:`deepzero_sim.datasets.foreign.FORMATS`; None to find it by the content.
        axes: Roles of the axes of its arrays, in order: ``simulation``, ``time``, ``channel``, and names of axes in space,
            such as ``y`` and ``x``; empty where they can be told.
        channels: Names of the fields to take, in this order, or a mapping of their names in the file to new ones; the names of
            the channels where the file has none; empty for all that change in time.
        parameters: Names of the scenario parameters to take, in this order, or a mapping to new names; None for all.
        dt: Time between frames, for files that have no times.
        space: Names of the axes in space that are expected, for the example of a message; empty if nobody knows.
    """

    format: str | None = None
    axes: Sequence[str] = ()
    channels: Sequence[str] | Mapping[str, str] = ()
    parameters: Sequence[str] | Mapping[str, str] | None = None
    dt: float | None = None
    space: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", names("the data", "axes", self.axes))
        object.__setattr__(self, "channels", _names("channels", self.channels))
        if self.parameters is not None:
            object.__setattr__(self, "parameters", _names("parameters", self.parameters))
        usable = self.dt is None or is_positive(self.dt)
        require(usable, "dt of the data must be a positive number, the time between frames", self.dt)
        require_that(
            not self.axes or TIME in self.axes,
            f"axes of the data must name which axis is the time, as in [simulation, time, channel, y, x], not "
            f"[{', '.join(self.axes)}].",
        )

    @property
    def channel_names(self) -> dict[str, str]:
        """Names of channels in the file, and what they are to be called."""
        return _as_mapping(self.channels)

    @property
    def parameter_names(self) -> dict[str, str] | None:
        """Names of parameters in the file, and what they are to be called; None for all."""
        return None if self.parameters is None else _as_mapping(self.parameters)


def _names(field: str, value: Sequence[str] | Mapping[str, str]) -> Sequence[str] | Mapping[str, str]:
    if isinstance(value, Mapping):
        new = names("the data", field, tuple(value.values()))
        return dict(zip(names("the data", field, tuple(value)), new, strict=True))
    return names("the data", field, list_of("the data", field, value))


def _as_mapping(names: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    return dict(names) if isinstance(names, Mapping) else {name: name for name in names}
