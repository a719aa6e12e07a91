"""Gradient under test: gradients that a method gives at several samples, exact ones, and slopes along random directions."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepzero_sim.checks.gradient.sweep import STEP_SIZES, Sweep, Vector, analyse_slopes
from deepzero_sim.common.requirements import require_type
from deepzero_sim.common.types import to_array, to_array_or_none
from deepzero_sim.errors import ConfigError, NonFiniteError, SolverError
from deepzero_sim.solver.contract import DifferentiableSolver, Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import with_input_channels
from deepzero_sim.solver.stepping import checked_step, differentiable_step

#: Largest difference between a twin's step and the solver's, relative to the step's change: they may round and solve otherwise.
TWIN_TOLERANCE = 0.1


@dataclass(frozen=True)
class SampleGradients:
    """Gradients that a method gives, and the solver steps it took.

    Args:
        gradients: Gradient at every sample, `(d,)`.
        forward: States advanced by forward passes, or by queries.
        backward: States advanced for vector-Jacobian products.
    """

    gradients: list[Vector]
    forward: int
    backward: int


class Subject(abc.ABC):
    """Gradient at several samples, by the method under test and by others.

    Attributes:
        samples: Number of samples.
        steps: Solver steps taken so far for slopes and their check; those of the method under test do not count.
    """

    samples: int
    steps: int = 0

    @abc.abstractmethod
    def estimate(self) -> SampleGradients:
        """Compute the gradients by the method under test."""

    @abc.abstractmethod
    def exact_gradients(self, twin: DifferentiableSolver) -> list[Vector]:
        """Back-propagate through a differentiable twin of the solver, whose steps do not count.

        Raises:
            ConfigError: The solver is no twin.
        """

    @abc.abstractmethod
    def size(self, sample: int) -> float:
        """Compute the size of the value that is differenced.

        Raises:
            ConfigError: The same question has two answers.
        """

    @abc.abstractmethod
    def unit(self, sample: int) -> float:
        """Convert a step size of 1 to the unit of the numbers that are perturbed."""

    @abc.abstractmethod
    def smallest_step(self) -> float:
        """Return the smallest step size that changes the numbers at all."""

    @abc.abstractmethod
    def directions(self, seeds: Sequence[int]) -> Vector:
        """Draw one direction from each seed, `(n, d)`."""

    @abc.abstractmethod
    def slopes(self, sample: int, seeds: Sequence[int], step_size: float) -> Vector:
        """Take central differences along these directions, `(n,)`, by forward steps only."""

    def sweep(self, seeds: Sequence[int], size: float, exact: list[Vector] | None = None) -> Sweep:
        """Take slopes at the first sample at all step sizes.

        Args:
            seeds: Seeds of the directions.
            size: Size of the value that is differenced.
            exact: Exact gradients, `(d,)` each, if known.

        Raises:
            SolverError: No two neighbouring step sizes gave finite slopes.
        """
        slopes: dict[float, Vector | None] = {}
        failure: SolverError = NonFiniteError("no step size gave finite slopes: check the loss at the batches given.")
        for step_size in filter(lambda step_size: step_size >= self.smallest_step(), STEP_SIZES):
            try:
                values = self.slopes(0, seeds, step_size)
                slopes[step_size] = values if np.isfinite(values).all() else None
            except SolverError as error:  # large steps may lead to states that it cannot advance
                failure, slopes[step_size] = error, None
        known = [values is not None for values in slopes.values()]
        if not any(a and b for a, b in itertools.pairwise(known)):
            raise failure
        return analyse_slopes(slopes, None if exact is None else self.directions(seeds) @ exact[0], self.unit(0), size)


def require_twin(twin: DifferentiableSolver, spec: SolverSpec) -> None:
    """Refuse a twin that has no gradient or advances other states than the solver.

    Raises:
        ConfigError: The twin is not usable.
    """
    require_type(twin, DifferentiableSolver, "a twin must be a dz.DifferentiableSolver", "leave it out if you have none")
    ours, theirs = (f"{s.dtype} states of shape {s.state_shape}" for s in (spec, twin.spec))
    if ours != theirs:
        raise ConfigError(f"a twin takes the same states as the solver, {ours}, not {theirs}: check its resolution and dtype.")


def require_same_step(twin: DifferentiableSolver, solver: Solver, states: torch.Tensor, params: torch.Tensor | None) -> None:
    """Refuse a twin that takes another step than the solver from one state, `(1, C, *N)`.

    Raises:
        ConfigError: The two steps differ by more than `TWIN_TOLERANCE` of the change.
        SolverError: The solver failed.
    """
    given = to_array(states)
    ours = checked_step(solver, given, to_array_or_none(params))
    with torch.no_grad():
        theirs = to_array(differentiable_step(twin, states, params))
    change = float(np.linalg.norm(ours - given)) or float(np.linalg.norm(ours))
    apart = float(np.linalg.norm((theirs - ours) * solver.spec.active()))
    if apart > TWIN_TOLERANCE * change:
        raise ConfigError(
            f"a twin takes the solver's step, but {twin.spec.name!r} and {solver.spec.name!r} are {apart:.3g} apart after a "
            f"step that changes {change:.3g}: check its settings and units."
        )


def step_of_twin(twin: DifferentiableSolver, solver: Solver, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
    """Take the step of a twin under autograd, after a look at whether it is the solver's, `(B, C, *N)`.

    Args:
        twin: Differentiable solver.
        solver: Solver whose twin it is, with its inputs as channels if it reads any.
        states: States, `(B, C, *N)`.
        params: Scenario parameters, `(B, K)`, or None.

    Raises:
        ConfigError: It is no twin, or has no gradient.
        SolverError: The solver failed.
    """
    if isinstance(twin, DifferentiableSolver):
        channels = with_input_channels(twin)
        assert isinstance(channels, DifferentiableSolver)
        twin = channels
    require_twin(twin, solver.spec)
    require_same_step(twin, solver, states[:1].detach(), None if params is None else params[:1].detach())
    advanced = differentiable_step(twin, states, params)
    if not bool(torch.isfinite(advanced).all()):
        raise NonFiniteError(f"what the twin {twin.spec.name!r} returned must be finite, but it holds NaN or infinity.")
    if not advanced.requires_grad:
        raise ConfigError(
            f"the twin {twin.spec.name!r} has no gradient: look for detach(), no_grad() or numpy in differentiable_step."
        )
    return advanced


def size_of_step(solver: Solver, state: torch.Tensor, params: torch.Tensor | None) -> float:
    """Return the norm of what a solver's step makes of a state, `(1, C, *N)`, by two steps that must agree.

    Raises:
        ConfigError: They do not.
        SolverError: The solver failed.
    """
    first, second = (checked_step(solver, to_array(state), to_array_or_none(params)) for _ in range(2))
    apart = np.abs(first - second).max()
    require_same_answer(np.array_equal(first, second), f"solver {solver.spec.name!r}", f"states up to {apart:.3g} apart")
    return float(np.linalg.norm(first.astype(np.float64)))


def require_same_answer(same: bool, who: str, answers: str) -> None:
    """Refuse a subject that answers the same question in two ways: differences of its answers are not slopes.

    Args:
        same: Equality of the two answers.
        who: Subject that answered, in words.
        answers: Both answers, or their difference, in words.

    Raises:
        ConfigError: The answers differ.
    """
    if not same:
        raise ConfigError(
            f"a gradient is checked where the same is answered to the same, but {who} gave {answers}: take out what is random "
            "or kept from call to call."
        )
