"""What is checked, in general: samples, with gradients found at them, exact ones, and slopes along random directions."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.types import to_array, to_array_or_none
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import DifferentiableSolver, Solver, SolverSpec, checked_step, differentiable_step

#: A gradient, or one of `n` directions and its slope: `(d,)`, `(n, d)`, `(n,)`.
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """Gradients that a method found, and the solver steps they took.

    Args:
        gradients: of every sample, `(d,)`.
        forward: states advanced by the forward passes, or by queries.
        backward: states advanced for vector-Jacobian products.
    """

    gradients: list[Vector]
    forward: int
    backward: int


class Subject(abc.ABC):
    """Gradients at several samples.

    Attributes:
        samples: how many.
        steps: solver steps taken so far for slopes and their check, not for what is found.
    """

    samples: int
    steps: int = 0

    @abc.abstractmethod
    def found(self) -> Found:
        """The gradients of the method that is checked."""

    @abc.abstractmethod
    def exact(self, twin: DifferentiableSolver) -> list[Vector]:
        """The gradients by back-propagation through a differentiable twin of the solver, whose steps do not count.

        Raises:
            ConfigError: it is no twin.
        """

    @abc.abstractmethod
    def size(self, sample: int) -> float:
        """Of the value that is differenced.

        Raises:
            ConfigError: the same question has two answers.
        """

    @abc.abstractmethod
    def unit(self, sample: int) -> float:
        """What a step size of 1 is, in the numbers that are perturbed."""

    @abc.abstractmethod
    def smallest_step(self) -> float:
        """Step sizes below this one cannot be told from none."""

    @abc.abstractmethod
    def directions(self, seeds: Sequence[int]) -> Vector:
        """`(n, d)`, one of each seed."""

    @abc.abstractmethod
    def slopes(self, sample: int, seeds: Sequence[int], step_size: float) -> Vector:
        """Central differences along these directions, `(n,)`, from forward steps only."""


def require_twin(twin: DifferentiableSolver, spec: SolverSpec) -> None:
    """Hold a twin to the solver's states.

    Raises:
        ConfigError: it has no gradient, or takes others.
    """
    if not isinstance(twin, DifferentiableSolver):
        raise ConfigError(
            f"a twin must be a dz.DifferentiableSolver, not {type(twin).__name__}: leave it out if you have none."
        )
    ours, theirs = (f"{s.dtype} states of shape {s.state_shape}" for s in (spec, twin.spec))
    if ours != theirs:
        raise ConfigError(f"a twin takes the same states as the solver, {ours}, not {theirs}: check its resolution and dtype.")


#: Of a step's change, how much a twin's step may differ: they need not be of one mind about rounding, or how to solve.
APART = 0.1


def require_same_step(twin: DifferentiableSolver, solver: Solver, states: torch.Tensor, params: torch.Tensor | None) -> None:
    """Hold a twin to the solver's step, from one state, `(1, C, *N)`.

    Raises:
        ConfigError: it takes another one.
        SolverError: the solver failed.
    """
    given = to_array(states)
    ours = checked_step(solver, given, to_array_or_none(params))
    with torch.no_grad():
        theirs = to_array(differentiable_step(twin, states, params))
    change = float(np.linalg.norm(ours - given)) or float(np.linalg.norm(ours))
    apart = float(np.linalg.norm((theirs - ours) * solver.spec.active()))
    if apart > APART * change:
        raise ConfigError(
            f"a twin takes the solver's step, but {twin.spec.name!r} and {solver.spec.name!r} are {apart:.3g} apart after a "
            f"step that changes {change:.3g}: check its settings and units."
        )


def two_answers(who: str, answers: str) -> ConfigError:
    """What to say of differences between answers that are not the same to the same."""
    return ConfigError(
        f"a gradient is checked where the same is answered to the same, but {who} gave {answers}: take out what is random or "
        "kept from call to call."
    )
