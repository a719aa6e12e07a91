"""The solver contract: everything the package knows of a numerical solver.

A solver advances states by one step. It promises no gradient. A solver that can be differentiated says so by
being a :class:`DifferentiableSolver`; only the upper bound FO-SOL uses that.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.components import Component, Kind, call, load_factory
from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array, is_integer, read_only_copy
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver import spec_fields

DTYPES = ("float32", "float64")

#: Converters of the fields of a spec that are lists.
_LISTED: Mapping[tuple[str, ...], Callable[[str, str, Any], tuple[Any, ...]]] = {
    ("channels", "parameters", "axes"): spec_fields.names,
    ("channel_units", "parameter_units"): spec_fields.texts,
    ("spacing",): spec_fields.numbers,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverSpec:
    """Description of a solver. Everything but the name, the shape and the step length has a default.

    Args:
        name: Name of the solver in reports and data files.
        state_shape: Shape of one state, `(C, *N)`, without the batch axis.
        dt: Length of one step, in the solver's unit of time.
        dtype: Type of the numbers in states, ``"float32"`` or ``"float64"``.
        channels: Name of each of the `C` channels.
        channel_units: Unit of each channel.
        parameters: Name of each of the `K` scenario parameters; empty if the solver takes none.
        parameter_units: Unit of each parameter.
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
    dtype: str = "float32"
    channels: tuple[str, ...] = ()
    channel_units: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    parameter_units: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    spacing: tuple[float, ...] = ()
    offsets: tuple[tuple[float, ...], ...] = ()
    mask: NDArray[np.bool_] | None = None
    stencil: int | None = None
    deterministic: bool = True
    max_batch: int | None = None
    thread_safe: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"SolverSpec {self.name!r}: name must be text, not {type(self.name).__name__}: put it in quotes.")
        if not self.name.strip():
            raise ConfigError(f"SolverSpec {self.name!r}: name must not be empty: say what reports are to call the solver.")
        self._convert_lists()
        if self.dtype not in DTYPES:
            raise ConfigError(f"SolverSpec {self.name!r}: dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}.")
        for field in ("deterministic", "thread_safe"):
            if not isinstance(getattr(self, field), bool | np.bool_):
                raise ConfigError(f"SolverSpec {self.name!r}: {field} must be true or false, not {getattr(self, field)!r}.")
        if self.max_batch is not None and (not is_integer(self.max_batch) or self.max_batch < 1):
            raise ConfigError(f"SolverSpec {self.name!r}: max_batch must be a positive number or None, not {self.max_batch}.")
        if self.stencil is not None and (not is_integer(self.stencil) or self.stencil < 0):
            raise ConfigError(
                f"SolverSpec {self.name!r}: stencil must be a whole number of points, 0 or more, or None, not {self.stencil!r}."
            )
        dt = spec_fields.finite(self.dt)
        remedy = spec_fields.number_remedy(self.dt)
        require(dt is not None and dt > 0, f"SolverSpec {self.name!r}: dt must be a positive number", self.dt, remedy)
        object.__setattr__(self, "dt", dt)
        channels, axes = self.state_shape[0], len(self.state_shape) - 1
        self._need_length("channels", channels)
        self._need_length("channel_units", channels)
        self._need_length("parameter_units", len(self.parameters))
        self._need_length("axes", axes)
        self._need_length("spacing", axes)
        self._need_length("offsets", channels)
        if self.offsets and any(len(offset) != axes for offset in self.offsets):
            raise ConfigError(
                f"SolverSpec {self.name!r}: offsets must have {axes} numbers for each channel, not {self.offsets}: one an axis."
            )
        if 0 in self.spacing:
            raise ConfigError(f"SolverSpec {self.name!r}: spacing must not be 0, but is {self.spacing}: points lie apart.")
        if self.mask is not None:
            object.__setattr__(self, "mask", self._own_mask(self.mask))

    def _own_mask(self, mask: Any) -> NDArray[np.bool_]:
        """Check a mask against the state's shape and copy it: solvers, networks and users' functions all see this one."""
        what = f"SolverSpec {self.name!r}: the mask must be"
        if not isinstance(mask, np.ndarray):
            raise ConfigError(f"{what} a numpy array, not {type(mask).__name__}: take numpy.array(mask).")
        if mask.shape != self.state_shape or mask.dtype != np.bool_:
            raise ConfigError(
                f"{what} a bool array of the shape of a state, {self.state_shape}, not {mask.dtype} of shape {mask.shape}."
            )
        if not mask.any():
            raise ConfigError(f"{what} True where a state holds values, not False everywhere.")
        return read_only_copy(mask)

    def _convert_lists(self) -> None:
        """Turn lists into the tuples that they stand for, and refuse what is no text, no name or no number."""
        what = f"SolverSpec {self.name!r}"
        converted: dict[str, Any] = {}
        converted["state_shape"] = spec_fields.shape(what, self.state_shape)
        for fields, convert in _LISTED.items():
            converted |= {field: convert(what, field, getattr(self, field)) for field in fields}
        rows = spec_fields.list_of(what, "offsets", self.offsets)
        converted["offsets"] = tuple(spec_fields.numbers(what, "offsets", row) for row in rows)
        for field, value in converted.items():
            object.__setattr__(self, field, value)

    def _need_length(self, field: str, expected: int) -> None:
        value = getattr(self, field)
        if value and len(value) != expected:
            raise ConfigError(f"SolverSpec {self.name!r}: {field} must have {expected} entries, not {len(value)}: {value}.")

    def active(self) -> NDArray[np.bool_]:
        """Bool array `(C, *N)`, True where a state holds values: the mask, or all of it."""
        return np.ones(self.state_shape, dtype=bool) if self.mask is None else self.mask.copy()

    def coordinates(self, channel: int, axis: int) -> NDArray[np.float64]:
        """Compute the positions of a channel's points along an axis, `(i + offset) * spacing`, in units of the domain."""
        points = self.state_shape[1 + axis]
        spacing = self.spacing[axis] if self.spacing else 1.0
        offset = self.offsets[channel][axis] if self.offsets else 0.0
        return np.asarray((np.arange(points) + offset) * spacing, dtype=np.float64)


class Solver(abc.ABC):
    """A numerical solver, of which the package only knows how to ask for one step.

    Subclasses set ``spec`` and write :meth:`step`. A step must not change its input, keeps no hidden state between
    calls, and raises when it fails: a failure is never returned as numbers. Where states are advanced one by one, a
    :class:`StatesFailedError` says which of them failed and hands over the others.
    """

    spec: SolverSpec

    @abc.abstractmethod
    def step(self, states: Array, params: Array | None = None) -> Array:
        """Advance every state of a batch by one step.

        Args:
            states: States `(B, C, *N)`, of the type that ``spec.dtype`` names.
            params: Scenario parameters `(B, K)`, constant along a rollout, or None.

        Returns:
            States one step later, `(B, C, *N)`, of the same type.
        """


class DifferentiableSolver(Solver):
    """A solver that torch can differentiate. Only the upper bound FO-SOL asks for this; real opaque solvers cannot."""

    @abc.abstractmethod
    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """Take the step of :meth:`Solver.step`, `(B, C, *N)` to `(B, C, *N)`, recorded by autograd."""


#: Objects that the settings of a solver may name.
SOLVER = Kind.of(Solver, "a deepzero_sim.Solver")


def build_solver(component: Component) -> Solver:
    """Build the solver that settings name: by a class or function that makes one, or one that is there already.

    Raises:
        ConfigError: The solver cannot be made, or is no solver.
    """
    named = load_factory(component.name, SOLVER)
    solver = named if isinstance(named, Solver) and not component.args else call(named, component)
    if not isinstance(solver, Solver):
        raise ConfigError(f"{component} must make a deepzero_sim.Solver, not {type(solver).__name__}.")
    if not isinstance(getattr(solver, "spec", None), SolverSpec):
        raise ConfigError(f"solver {component.name!r} must set self.spec to a deepzero_sim.SolverSpec when it is made.")
    return solver


StepFunction = Callable[..., Array]


class _FunctionSolver(Solver):
    """A plain function as a solver; made by :func:`as_solver`."""

    def __init__(self, function: StepFunction, spec: SolverSpec) -> None:
        self.spec = spec
        self._function = function

    def step(self, states: Array, params: Array | None = None) -> Array:
        return self._function(states) if params is None else self._function(states, params)


def as_solver(function: StepFunction, spec: SolverSpec) -> Solver:
    """Make a solver of a plain function.

    Args:
        function: Step, ``function(states)`` or, where scenario parameters are used, ``function(states, params)``;
            `(B, C, *N)` to `(B, C, *N)`.
        spec: Description of the solver.
    """
    return _FunctionSolver(function, spec)
