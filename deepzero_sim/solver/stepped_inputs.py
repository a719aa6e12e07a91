"""Solvers that read fields besides their state, as solvers that read none: the fields are channels of the state, or at rest.

Everything else of the package steps one of these two, and knows nothing of inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from deepzero_sim.common.types import Array, read_only_copy
from deepzero_sim.errors import SolverError, StatesFailedError
from deepzero_sim.solver.contract import DifferentiableSolver, Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_form


def with_input_channels(solver: Solver) -> Solver:
    """Return a solver whose states have its inputs as further channels, `(s, u) -> (P(s, u), u)`; itself if it reads none."""
    if not _reads_inputs(solver):
        return solver
    return _DifferentiableInputChannels(solver) if isinstance(solver, DifferentiableSolver) else InputChannels(solver)


def with_inputs_at_rest(solver: Solver) -> Solver:
    """Return a solver that takes the values of its inputs from its spec, `s -> P(s, value)`; itself if it reads none."""
    if not _reads_inputs(solver):
        return solver
    return _DifferentiableInputsAtRest(solver) if isinstance(solver, DifferentiableSolver) else InputsAtRest(solver)


def _reads_inputs(solver: Solver) -> bool:
    """Tell whether the spec of a solver names inputs, and refuse one whose step does not take them.

    Raises:
        SolverError: A step takes no third argument.
    """
    steps = ("step", *(("differentiable_step",) if isinstance(solver, DifferentiableSolver) else ()))
    for name in steps if solver.spec.inputs else ():
        if not _takes(getattr(solver, name), 3):
            raise SolverError(
                f"solver {solver.spec.name!r} names inputs ({', '.join(solver.spec.input_names)}) in its spec, and its {name} "
                f"must take them as third argument, but it takes {inspect.signature(getattr(solver, name))}: write it as "
                f"{name}(states, params, inputs), or name no inputs."
            )
    return bool(solver.spec.inputs)


def _takes(function: Callable[..., object], count: int) -> bool:
    """Tell whether a function can be called with so many arguments by place, as far as its signature says."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # compiled code may have no signature
        pass
    return True


def inputs_at_rest(spec: SolverSpec) -> Array:
    """Return the values of inputs that nobody provides, `(U, *N)`, zero in padding."""
    values = np.array([one.value for one in spec.inputs]).reshape(-1, *[1] * (len(spec.state_shape) - 1))
    return (values * spec.active_inputs()).astype(spec.dtype)


def count_inputs(solver: Solver) -> int:
    """Count the channels of a solver's states that are inputs, the last ones."""
    return len(solver.solver.spec.inputs) if isinstance(solver, InputChannels) else 0


def bounds_of_inputs(solver: Solver) -> tuple[Array, Array] | None:
    """Return the least and the most of each channel of a solver's states, `(C, *1)`, infinite for none; None without any."""
    fields = solver.solver.spec.inputs if isinstance(solver, InputChannels) else ()
    if all(field.least is None and field.most is None for field in fields):
        return None
    own = solver.spec.state_shape[0] - len(fields)
    least = [-np.inf] * own + [-np.inf if field.least is None else field.least for field in fields]
    most = [np.inf] * own + [np.inf if field.most is None else field.most for field in fields]
    form = (-1, *[1] * (len(solver.spec.state_shape) - 1))
    return np.array(least, solver.spec.dtype).reshape(form), np.array(most, solver.spec.dtype).reshape(form)


def take_with_inputs(
    step: Callable[[Array, Array | None], Array], states: Array, params: Array | None, inputs: Array | None
) -> Array:
    """Step states whose inputs, if there are any, are channels behind their own, and return the states alone.

    Args:
        step: Step of states with these channels, which returns them as they were, see :func:`with_same_inputs`.
        states: States `(B, C, *N)`.
        params: Scenario parameters `(B, K)` or None.
        inputs: Fields that the step reads besides its state, `(B, U, *N)`; None for a solver that reads none.
    """
    if inputs is None:
        return step(states, params)
    own = states.shape[1]
    try:
        return step(np.concatenate([states, inputs], axis=1), params)[:, :own]
    except StatesFailedError as error:
        raise StatesFailedError(error.failures, error.advanced[:, :own]) from error


def with_same_inputs(advanced: Array, taken: Array, axis: int = 0) -> Array:
    """Return advanced states with the inputs behind their channels that were taken.

    Args:
        advanced: States, whose channels lie along an axis.
        taken: States before the step, with inputs.
        axis: Axis of the channels.
    """
    own = advanced.shape[axis]
    if taken.shape[axis] == own:
        return advanced
    return np.concatenate([advanced, np.take(taken, range(own, taken.shape[axis]), axis)], axis=axis)


class InputChannels(Solver):
    """A solver whose inputs are channels of its states, behind its own: `(s, u) -> (P(s, u), u)`.

    Its Jacobian holds those with respect to the state and to the inputs, so that whatever finds products of the first with a
    cotangent `(w, 0)` finds those of the second, too.

    Args:
        solver: Solver that reads inputs.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.spec = _spec_with_channels(solver.spec)

    def step(self, states: Array, params: Array | None = None) -> Array:
        own, inputs = (read_only_copy(part) for part in np.split(states, [self.solver.spec.state_shape[0]], axis=1))
        try:
            advanced = self.solver.step(own, params, inputs)  # type: ignore[call-arg] # as its spec says
        except StatesFailedError as error:
            raise StatesFailedError(error.failures, self._join(error.advanced, inputs)) from error
        return self._join(advanced, inputs)

    def _join(self, advanced: Array, inputs: Array) -> Array:
        check_form(self.solver.spec, advanced, f"what solver {self.spec.name!r} returned", len(inputs))
        return np.concatenate([advanced, inputs], axis=1)


class _DifferentiableInputChannels(InputChannels, DifferentiableSolver):
    """The same of a solver that torch can differentiate."""

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        channels = self.solver.spec.state_shape[0]
        own, inputs = states[:, :channels], states[:, channels:]
        advanced = self.solver.differentiable_step(own, params, inputs)  # type: ignore[attr-defined]
        return torch.cat([advanced, inputs], dim=1)


class InputsAtRest(Solver):
    """A solver that takes the values of its inputs from its spec: `s -> P(s, value)`.

    Args:
        solver: Solver that reads inputs.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.spec = replace(solver.spec, inputs=())
        self._values = inputs_at_rest(solver.spec)

    def with_values(self, values: Array) -> InputsAtRest:
        """Return the same solver with other fields, `(U, *N)`."""
        other = type(self)(self.solver)
        other._values = values
        return other

    def _inputs(self, count: int) -> Array:
        return read_only_copy(np.broadcast_to(self._values, (count, *self._values.shape)))

    def step(self, states: Array, params: Array | None = None) -> Array:
        advanced: Array = self.solver.step(states, params, self._inputs(len(states)))  # type: ignore[call-arg]
        return advanced


class _DifferentiableInputsAtRest(InputsAtRest, DifferentiableSolver):
    """The same of a solver that torch can differentiate."""

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        inputs = torch.from_numpy(self._inputs(len(states)).copy()).to(states)
        advanced: torch.Tensor = self.solver.differentiable_step(states, params, inputs)  # type: ignore[attr-defined]
        return advanced


def _spec_with_channels(spec: SolverSpec) -> SolverSpec:
    count, axes = len(spec.inputs), len(spec.state_shape) - 1
    masked = spec.mask is not None or not spec.active_inputs().all()
    return replace(
        spec,
        state_shape=(spec.state_shape[0] + count, *spec.state_shape[1:]),
        channels=(*spec.channel_names, *spec.input_names),
        channel_units=(*spec.channel_units, *(one.unit for one in spec.inputs)) if spec.channel_units else (),
        offsets=(*spec.offsets, *[(0.0,) * axes] * count) if spec.offsets else (),
        mask=np.concatenate([spec.active(), spec.active_inputs()]) if masked else None,
        inputs=(),
    )
