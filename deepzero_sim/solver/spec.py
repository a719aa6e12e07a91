"""Description of a solver: its spec."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import Words, is_count, require
from deepzero_sim.common.types import read_only_copy
from deepzero_sim.common.words import count_of
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.input_fields import InputField, input_fields, points_of_input
from deepzero_sim.solver.spec_values import (
    IN_QUOTES,
    default_names,
    finite,
    list_of,
    names,
    number_remedy,
    numbers,
    shape,
    texts,
)

DTYPES = ("float32", "float64")


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverSpec:
    """Description of a solver. Everything but the name, the shape and the step length has a default.

    Args:
        name: Name of the solver in reports and data files.
        state_shape: Shape of one state, `(C, *N)`, without the batch axis.
        dt: Length of one step, in the solver's unit of time.
        time_unit: Unit of time, that of `dt`, such as ``"s"``; data that name another one are converted. Empty if nobody says.
        dtype: Type of the numbers in states, ``"float32"`` or ``"float64"``.
        channels: Name of each of the `C` channels. Here and in the next four fields, a text alone is one entry.
        channel_units: Unit of each channel.
        parameters: Name of each of the `K` scenario parameters; empty if the solver takes none.
        parameter_units: Unit of each parameter.
        inputs: Fields that a step reads besides its state, each an :class:`InputField`, a name, or a mapping of its entries.
        axes: Name of each of the spatial axes `N`.
        spacing: Distance between neighbouring points along each axis.
        offsets: Position of each channel's first point along each axis, in units of the spacing (0.5 for cell centres, 0 for
            faces along the normal).
        mask: Bool array `(C, *N)`, True where the array holds a value and False where it is padding; None if it is all values.
            Fields of different staggering share one padded array this way; padding is zero.
        stencil: Number of points that one step can carry information over, if the step is local; None if it is global.
        deterministic: True if the same input always gives the same output, bit for bit.
        max_batch: Most states that one call may advance; None if it does not matter.
        thread_safe: True if several threads may call the solver at once.
    """

    name: str
    state_shape: tuple[int, ...]
    dt: float
    time_unit: str = ""
    dtype: str = "float32"
    channels: tuple[str, ...] = ()
    channel_units: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    parameter_units: tuple[str, ...] = ()
    inputs: tuple[InputField, ...] = ()
    axes: tuple[str, ...] = ()
    spacing: tuple[float, ...] = ()
    offsets: tuple[tuple[float, ...], ...] = ()
    mask: NDArray[np.bool_] | None = None
    stencil: int | None = None
    deterministic: bool = True
    max_batch: int | None = None
    thread_safe: bool = True

    def __post_init__(self) -> None:
        named = isinstance(self.name, str)
        self._require(named, "name must be text", Words(type(self.name).__name__), "put it in quotes")
        if not self.name.strip():
            raise ConfigError(f"SolverSpec {self.name!r}: name must not be empty: say what reports are to call the solver.")
        self._require(isinstance(self.time_unit, str), "time_unit must be text", self.time_unit, IN_QUOTES)
        for field, value in self._convert_lists().items():
            object.__setattr__(self, field, value)
        self._require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}", self.dtype)
        for field in ("deterministic", "thread_safe"):
            value = getattr(self, field)
            self._require(isinstance(value, bool | np.bool_), f"{field} must be true or false", value)
        self._require(
            self.max_batch is None or is_count(self.max_batch), "max_batch must be a positive number or None", self.max_batch
        )
        whole = self.stencil is None or is_count(self.stencil, 0)
        self._require(whole, "stencil must be a whole number of points, 0 or more, or None", self.stencil)
        dt = finite(self.dt)
        self._require(dt is not None and dt > 0, "dt must be a positive number", self.dt, number_remedy(self.dt))
        object.__setattr__(self, "dt", dt)
        self._require_lengths()
        if 0 in self.spacing:
            raise ConfigError(f"SolverSpec {self.name!r}: spacing must not be 0, but is {self.spacing}: points lie apart.")
        shared = set(self.input_names) & {*self.channels, *self.parameters}
        self._require(not shared, "inputs must have other names than channels and parameters", Words(", ".join(sorted(shared))))
        if self.mask is not None:
            object.__setattr__(self, "mask", self._own_mask(self.mask))

    def __repr__(self) -> str:
        """Show what a person asks first: the fields, the grid and the step."""
        count = self.state_shape[0]
        channels = ", ".join(self.channels) or count_of(count, "channel")
        takes = f", parameters {', '.join(self.parameters)}" if self.parameters else ""
        takes += f", inputs {', '.join(self.input_names)}" if self.inputs else ""
        shape = " x ".join(map(str, self.state_shape[1:]))
        masked = "" if self.mask is None else f", {int(self.mask.sum())} of {self.mask.size} values in the mask"
        return f"SolverSpec({self.name!r}: {channels} on {shape} points, dt={self.dt:g}, {self.dtype}{takes}{masked})"

    def _require(self, holds: bool, expected: str, value: object, remedy: str = "") -> None:
        require(holds, f"SolverSpec {self.name!r}: {expected}", value, remedy)

    def _convert_lists(self) -> dict[str, Any]:
        """Convert fields that are lists to the tuples that they stand for; refuse what is no text, no name or no number."""
        what = f"SolverSpec {self.name!r}"
        rows = list_of(what, "offsets", self.offsets)
        state_shape = shape(what, self.state_shape)
        return {
            "state_shape": state_shape,
            "inputs": input_fields(what, state_shape[1:], self.inputs),
            **{field: names(what, field, getattr(self, field)) for field in ("channels", "parameters", "axes")},
            **{field: texts(what, field, getattr(self, field)) for field in ("channel_units", "parameter_units")},
            "spacing": numbers(what, "spacing", self.spacing),
            "offsets": tuple(numbers(what, "offsets", row) for row in rows),
        }

    def _require_lengths(self) -> None:
        channels, axes = self.state_shape[0], len(self.state_shape) - 1
        expected = {"channels": channels, "channel_units": channels, "parameter_units": len(self.parameters)}
        for field, length in {**expected, "axes": axes, "spacing": axes, "offsets": channels}.items():
            value = getattr(self, field)
            shown = Words(f"{len(value)}: {value}")
            self._require(not value or len(value) == length, f"{field} must have {length} entries", shown)
        fit = all(len(offset) == axes for offset in self.offsets)
        self._require(fit, f"offsets must have {axes} numbers for each channel", self.offsets, "one an axis")

    def _own_mask(self, mask: Any) -> NDArray[np.bool_]:
        """Check a mask against the state's shape and copy it: solvers, networks and users' functions all see this one."""
        kind = Words(type(mask).__name__)
        self._require(isinstance(mask, np.ndarray), "the mask must be a numpy array", kind, "take numpy.array(mask)")
        expected = f"the mask must be a bool array of the shape of a state, {self.state_shape}"
        shown = Words(f"{mask.dtype} of shape {mask.shape}")
        self._require(mask.shape == self.state_shape and mask.dtype == np.bool_, expected, shown)
        self._require(bool(mask.any()), "the mask must be True where a state holds values", Words("False everywhere"))
        return read_only_copy(mask)

    def active(self) -> NDArray[np.bool_]:
        """Bool array `(C, *N)`, True where a state holds values: the mask, or all of it."""
        return np.ones(self.state_shape, dtype=bool) if self.mask is None else self.mask.copy()

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, numbers where they have none."""
        return self.channels or default_names("channel", self.state_shape[0])

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the fields that a step reads besides its state."""
        return tuple(one.name for one in self.inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the fields that a step reads besides its state, `(U, *N)`, without the batch axis."""
        return (len(self.inputs), *self.state_shape[1:])

    def active_inputs(self) -> NDArray[np.bool_]:
        """Bool array `(U, *N)`, True where the fields that a step reads hold values, False where they are padding."""
        grid = self.state_shape[1:]
        return np.array([points_of_input(one, grid) for one in self.inputs], dtype=bool).reshape(self.input_shape)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """Names of the spatial axes, numbers where they have none."""
        return self.axes or default_names("axis", len(self.state_shape) - 1)

    def coordinates(self, channel: int, axis: int) -> NDArray[np.float64]:
        """Compute the positions of a channel's points along an axis, `(i + offset) * spacing`, in units of the domain."""
        points = self.state_shape[1 + axis]
        spacing = self.spacing[axis] if self.spacing else 1.0
        offset = self.offsets[channel][axis] if self.offsets else 0.0
        return np.asarray((np.arange(points) + offset) * spacing, dtype=np.float64)


def entries_but_mask(spec: SolverSpec) -> dict[str, Any]:
    """Return all fields of a spec by name, but the mask, which JSON does not hold, and units of time and inputs that it lacks.

    Runs know their solvers by digests of these entries: one without these has those of earlier versions.
    """
    left_out = {"mask", *(key for key in ("time_unit", "inputs") if not getattr(spec, key))}
    return {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in left_out}
