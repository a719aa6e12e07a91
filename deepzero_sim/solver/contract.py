"""The solver contract: everything the package knows of a numerical solver.

A solver advances states by one step. It promises no gradient. A solver that can be differentiated says so by
being a :class:`DifferentiableSolver`; only the upper bound FO-SOL uses that.
"""

from __future__ import annotations

import abc
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.cancellation import cancellation
from deepzero_sim.common.components import Component, Wanted, call, load_factory
from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array, is_integer, read_only_copy
from deepzero_sim.errors import (
    ConfigError,
    DeepZeroError,
    InvalidStateError,
    NonFiniteError,
    SolverCrashError,
    StatesFailedError,
)
from deepzero_sim.solver import spec_fields

DTYPES = ("float32", "float64")

#: How fields of a spec that are lists are taken.
_LISTED: Mapping[tuple[str, ...], Callable[[str, str, Any], tuple[Any, ...]]] = {
    ("channels", "parameters", "axes"): spec_fields.names,
    ("channel_units", "parameter_units"): spec_fields.texts,
    ("spacing",): spec_fields.numbers,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverSpec:
    """What a solver says of itself. Everything but the name, the shape and the step length has a default.

    Args:
        name: what the solver is called in reports and data files.
        state_shape: `(C, *N)`, the shape of one state, the batch axis left out.
        dt: length of one step, in the solver's unit of time.
        dtype: ``"float32"`` or ``"float64"``; states go in and come out in it.
        channels: name of each of the `C` channels.
        channel_units: unit of each channel.
        parameters: name of each of the `K` scenario parameters; empty if the solver takes none.
        parameter_units: unit of each parameter.
        axes: name of each of the spatial axes `N`.
        spacing: distance between neighbouring points along each axis.
        offsets: for each channel, where its first point lies along each axis, in units of the spacing
            (0.5 for cell centres, 0 for faces along the normal).
        mask: bool `(C, *N)`, True where the array holds a value and False where it is padding; None if it is all values.
            Fields of different staggering share one padded array this way; padding is zero.
        stencil: how many points away one step can carry information, if the step is local; None if it is global.
        deterministic: whether the same input always gives the same output, bit for bit.
        max_batch: how many states one call may advance; None if it does not matter.
        thread_safe: whether several threads may call the solver at once.
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
        self._take_lists()
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
        """Hold a mask to the state's shape; a copy, as solvers, networks and functions of the user's all see this one."""
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

    def _take_lists(self) -> None:
        """Take lists as the tuples that they stand for, and refuse what is no text, no name or no number."""
        what = f"SolverSpec {self.name!r}"
        taken: dict[str, Any] = {}
        taken["state_shape"] = spec_fields.shape(what, self.state_shape)
        for fields, take in _LISTED.items():
            taken |= {field: take(what, field, getattr(self, field)) for field in fields}
        rows = spec_fields.list_of(what, "offsets", self.offsets)
        taken["offsets"] = tuple(spec_fields.numbers(what, "offsets", row) for row in rows)
        for field, value in taken.items():
            object.__setattr__(self, field, value)

    def _need_length(self, field: str, expected: int) -> None:
        value = getattr(self, field)
        if value and len(value) != expected:
            raise ConfigError(f"SolverSpec {self.name!r}: {field} must have {expected} entries, not {len(value)}: {value}.")

    def active(self) -> NDArray[np.bool_]:
        """Where a state holds values: the mask, or all of `(C, *N)`."""
        return np.ones(self.state_shape, dtype=bool) if self.mask is None else self.mask.copy()

    def coordinates(self, channel: int, axis: int) -> NDArray[np.float64]:
        """Positions of a channel's points along an axis: `(i + offset) * spacing`, in units of the domain."""
        points = self.state_shape[1 + axis]
        spacing = self.spacing[axis] if self.spacing else 1.0
        offset = self.offsets[channel][axis] if self.offsets else 0.0
        return np.asarray((np.arange(points) + offset) * spacing, dtype=np.float64)


class Solver(abc.ABC):
    """A numerical solver: the only thing the package knows about it is how to ask for one step.

    Subclasses set ``spec`` and write :meth:`step`. A step must not change its input, keeps no hidden state between
    calls, and raises when it fails: a failure is never returned as numbers. Where states are advanced one by one, a
    :class:`StatesFailedError` says which of them failed and hands over the others.
    """

    spec: SolverSpec

    @abc.abstractmethod
    def step(self, states: Array, params: Array | None = None) -> Array:
        """Advance every state of a batch by one step.

        Args:
            states: `(B, C, *N)`, dtype as ``spec.dtype`` says.
            params: `(B, K)` scenario parameters, constant along a rollout, or None.

        Returns:
            `(B, C, *N)`, the states one step later, same dtype.
        """


class DifferentiableSolver(Solver):
    """A solver that torch can differentiate. Only the upper bound FO-SOL asks for this; real opaque solvers cannot."""

    @abc.abstractmethod
    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """The same step as :meth:`Solver.step`, `(B, C, *N)` to `(B, C, *N)`, recorded by autograd."""


def differentiable_step(solver: DifferentiableSolver, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
    """One differentiable step from copies: what the solver writes into them changes nothing of its caller's.

    Args:
        solver: any.
        states: `(B, C, *N)`.
        params: `(B, K)` or None.

    Returns:
        `(B, C, *N)`, recorded by autograd back to `states`.

    Raises:
        InvalidStateError: it returned something else.
        SolverCrashError: it raised an exception of its own.
    """
    what = f"the differentiable step of solver {solver.spec.name!r}"
    try:
        advanced = solver.differentiable_step(states.clone(), None if params is None else params.clone())
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        raise SolverCrashError(
            f"{what} raised {type(error).__name__}: {error}: run it alone to find out why, on tensors of shape "
            f"{tuple(states.shape)}."
        ) from error
    if not isinstance(advanced, torch.Tensor):
        raise InvalidStateError(f"{what} must return a tensor, not {type(advanced).__name__}: leave numpy out of it.")
    if (advanced.shape, advanced.dtype) != (states.shape, states.dtype):
        raise InvalidStateError(
            f"{what} must return {states.dtype} of shape {tuple(states.shape)}, as it was given, not {advanced.dtype} of shape "
            f"{tuple(advanced.shape)}: convert it."
        )
    return advanced


#: What the settings of a solver may name.
SOLVER = Wanted.of(Solver, "a deepzero_sim.Solver")


def build_solver(component: Component) -> Solver:
    """The solver that settings name: a class or function that makes one, or one that is there already.

    Raises:
        ConfigError: it cannot be made, or is no solver.
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
        function: ``function(states)`` or, where scenario parameters are used, ``function(states, params)``;
            `(B, C, *N)` to `(B, C, *N)`.
        spec: what the solver says of itself.
    """
    return _FunctionSolver(function, spec)


def checked_step(solver: Solver, states: Array, params: Array | None = None) -> Array:
    """One step of any solver, held to the contract on both sides.

    Args:
        states: `(B, C, *N)`.
        params: `(B, K)` or None.

    Returns:
        `(B, C, *N)`, memory of its own.

    Raises:
        InvalidStateError: wrong shape or dtype, in or out.
        NonFiniteError: NaN or infinity, in or out.
        SolverCrashError: the solver raised an exception of its own.
        ConfigError: the solver found one of its settings not usable.
    """
    spec = solver.spec
    check_states(spec, states, f"what is given to solver {spec.name!r}", "check what comes before the solver")
    check_params(spec, states, params)
    largest = spec.max_batch or max(1, len(states))
    advanced = np.empty(states.shape, states.dtype)  # ours: the solver may return a view, or the same memory every time
    for i in range(0, len(states), largest):
        part = slice(i, i + largest)
        advanced[part] = _guarded_step(solver, states[part], None if params is None else params[part])
    return advanced


#: What to do about a result that is not finite.
DIVERGED = "it diverged or fails on such a state: use a smaller step, a smaller correction or another initial state"


def _guarded_step(solver: Solver, states: Array, params: Array | None) -> Array:
    try:
        result = raw_step(solver, states, params)
    except StatesFailedError as error:
        raise error.failures[min(error.failures)] from error
    check_states(solver.spec, result, returned_by(solver.spec), DIVERGED, batch=len(states))
    return result


def returned_by(spec: SolverSpec) -> str:
    """A step's result, in words."""
    return f"what solver {spec.name!r} returned"


def raw_step(solver: Solver, states: Array, params: Array | None) -> Array:
    """What a solver returns, whatever it is, from copies of states and parameters that it cannot write to.

    Raises:
        SolverError: it failed, by an exception of its own too.
        DeepZeroError: it cannot be asked at all: something is set wrong.
    """
    given, scenario = read_only_copy(states), None if params is None else read_only_copy(params)
    cancellation.check()
    try:
        return solver.step(given, scenario)
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        changed = "read-only" in str(error)
        remedy = "a step must not change its input, so copy it first" if changed else "run its step alone to find out why"
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise SolverCrashError(
            f"solver {solver.spec.name!r} raised {type(error).__name__}: {error} ({Path(where.filename).name}, line "
            f"{where.lineno}): {remedy}."
        ) from error


def check_states(spec: SolverSpec, states: Array, what: str, remedy: str, batch: int | None = None) -> None:
    """Hold states to a spec: array, shape, dtype, finite numbers.

    Raises:
        InvalidStateError, NonFiniteError: in words that begin with `what`; a non-finite value ends with `remedy`.
    """
    check_form(spec, states, what, batch)
    check_finite(states, what, remedy)


def check_form(spec: SolverSpec, states: Array, what: str, batch: int | None = None) -> None:
    """Hold states to a spec's shape and dtype.

    Raises:
        InvalidStateError: in words that begin with `what`.
    """
    if not isinstance(states, np.ndarray):
        raise InvalidStateError(f"{what} must be a numpy array, not {type(states).__name__}: convert it first.")
    wanted = f"({'batch' if batch is None else batch}, {', '.join(map(str, spec.state_shape))})"
    if states.shape[1:] != spec.state_shape or (batch is not None and len(states) != batch):
        raise InvalidStateError(f"{what} must have shape {wanted}, not {states.shape}: check the solver's spec and the data.")
    if states.dtype != np.dtype(spec.dtype):
        raise InvalidStateError(f"{what} must be {spec.dtype}, not {states.dtype}: convert it with .astype('{spec.dtype}').")


def check_finite(states: Array, what: str, remedy: str) -> None:
    """Hold states to finite numbers.

    Raises:
        NonFiniteError: in words that begin with `what` and end with `remedy`.
    """
    finite = np.isfinite(states)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise NonFiniteError(
            f"{what} must be finite, but {int((~finite).sum())} of {states.size} values are NaN or infinite, "
            f"the first at {first}: {remedy}."
        )


def require_states(spec: SolverSpec, states: Array, params: Array | None) -> None:
    """Hold states and parameters to a spec, one of them at least.

    Raises:
        InvalidStateError, NonFiniteError: in words.
    """
    check_states(spec, states, f"the states of solver {spec.name!r}", "check the data")
    if not len(states):
        raise InvalidStateError(f"one state of solver {spec.name!r} is needed at least, but there is none: pass (B, C, *N).")
    check_params(spec, states, params)


def check_params(spec: SolverSpec, states: Array, params: Array | None) -> None:
    """Hold scenario parameters to a spec: one row for each state, finite numbers.

    Raises:
        InvalidStateError, NonFiniteError: in words.
    """
    if params is None and not spec.parameters:
        return
    names = f" ({', '.join(spec.parameters)})" if spec.parameters else ""
    if params is None:
        raise InvalidStateError(
            f"solver {spec.name!r} needs parameters of shape ({len(states)}, {len(spec.parameters)}){names}, "
            "got None: pass them."
        )
    if not isinstance(params, np.ndarray):
        raise InvalidStateError(f"the parameters of solver {spec.name!r} must be a numpy array, not {type(params).__name__}.")
    if params.ndim != 2 or len(params) != len(states) or (spec.parameters and params.shape[1] != len(spec.parameters)):
        width = len(spec.parameters) or "any"
        raise InvalidStateError(
            f"solver {spec.name!r} needs parameters of shape ({len(states)}, {width}){names}, not {params.shape}: "
            "one row for each state."
        )
    if not np.isfinite(params).all():
        raise NonFiniteError(f"the parameters of solver {spec.name!r}{names} must be finite: check the data.")
