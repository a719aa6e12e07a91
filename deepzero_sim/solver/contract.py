"""The solver contract: everything the package knows of a numerical solver.

A solver advances states by one step. It promises no gradient. A solver that can be differentiated says so by
being a :class:`DifferentiableSolver`; only the upper bound FO-SOL uses that.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import torch

from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_call


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

        A solver whose spec names inputs is asked for `step(states, params, inputs)`, with the fields that it reads besides its
        state, `(B, U, *N)`, as third.

        Args:
            states: States `(B, C, *N)`, of the type that ``spec.dtype`` names.
            params: Scenario parameters `(B, K)`, constant along a rollout, or None.

        Returns:
            States one step later, `(B, C, *N)`, of the same type.
        """

    def __repr__(self) -> str:
        spec = getattr(self, "spec", None)  # a class of a user's may set it late
        return f"{type(self).__name__.lstrip('_')}({spec!r})" if isinstance(spec, SolverSpec) else object.__repr__(self)


class DifferentiableSolver(Solver):
    """A solver that torch can differentiate. Only the upper bound FO-SOL asks for this; real opaque solvers cannot."""

    @abc.abstractmethod
    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """Take the step of :meth:`Solver.step`, `(B, C, *N)` to `(B, C, *N)`, recorded by autograd; with inputs as third."""


StepFunction = Callable[..., Array]


class _FunctionSolver(Solver):
    """A plain function as a solver; made by :func:`as_solver`."""

    def __init__(self, function: StepFunction, spec: SolverSpec) -> None:
        self.spec = spec
        self._function = function

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        check_call(self.spec, states, params, inputs)
        if self.spec.inputs:
            return self._function(states, params, inputs)
        return self._function(states) if params is None else self._function(states, params)


def as_solver(function: StepFunction, spec: SolverSpec) -> Solver:
    """Make a solver of a plain function.

    Args:
        function: Step, ``function(states)`` or, where scenario parameters are used, ``function(states, params)``;
            `(B, C, *N)` to `(B, C, *N)`. Where the spec names inputs, ``function(states, params, inputs)``.
        spec: Description of the solver.
    """
    return _FunctionSolver(function, spec)


def require_thread_safe(solver: Solver, executor: Executor | None) -> None:
    """Refuse threads for a solver that several may not call at once.

    Raises:
        ConfigError: The executor has threads, and the solver's spec does not allow them.
    """
    if isinstance(executor, ThreadPoolExecutor) and not solver.spec.thread_safe:
        raise ConfigError(
            f"solver {solver.spec.name!r} may not be called by several threads at once: use the process or the serial executor."
        )
