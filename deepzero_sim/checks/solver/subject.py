"""Subject of a check: a solver, its sample states, and the training whose cost is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from deepzero_sim.checks.solver.trial import MOST, SAMPLES
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.models.build import build_network
from deepzero_sim.models.corrector import CORRECTORS
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import with_inputs_at_rest
from deepzero_sim.solver.validation import require_states

#: Number of waves that make a field, and of wavelengths along an axis, at most.
WAVES, MOST_LENGTHS = 8, 2


@dataclass(frozen=True, eq=False)
class Training:
    """A training through the solver.

    Args:
        network: Corrector; None for `small`.
        unroll: Solver steps of a rollout.
        batch_size: Rollouts of a gradient.
        seed: Seed of all that is drawn.
    """

    network: nn.Module | None
    unroll: int
    batch_size: int
    seed: int

    def network_for(self, solver: Solver) -> nn.Module:
        """Return the corrector, built for the solver's states if none was given."""
        if self.network is not None:
            return self.network
        return build_network(Component("small"), CORRECTORS, solver.spec, self.seed)


@dataclass(frozen=True, eq=False)
class Subject:
    """A solver and its sample states.

    Args:
        solver: Any solver; of one that reads inputs, that with these at rest.
        states: Sample states, `(S, C, *N)`, in the order in which they are looked at.
        params: Parameters, `(S, K)` or None.
        places: Numbers of these states among all sample states.
        made_up: True if the states are smooth random fields.
        training: Training whose cost is asked.
        data: Trajectories that the states are of; None if they are of none.
    """

    solver: Solver
    states: Array
    params: Array | None
    places: Sequence[int]
    made_up: bool
    training: Training
    data: Trajectories | None = None


def subject_of(
    solver: Solver, states: Array | None, params: Array | None, training: Training, data: Trajectories | None = None
) -> Subject:
    """Pick sample states for a solver, spread over all that are given.

    Args:
        solver: Any solver.
        states: States, `(B, C, *N)`; None for smooth random fields.
        params: Parameters, `(B, K)` or None.
        training: Training whose cost is asked.
        data: Trajectories that the states are of; None if they are of none.

    Raises:
        SolverError: The states do not fit the solver.
    """
    made_up, solver = states is None, with_inputs_at_rest(solver)
    given = smooth_fields(solver.spec, SAMPLES if params is None else len(params), training.seed) if states is None else states
    require_states(solver.spec, given, params)
    places = _sample_places(len(given))
    return Subject(solver, given[places], None if params is None else params[places], places, made_up, training, data)


def _sample_places(count: int) -> list[int]:
    """Spread sample states over all that there are; the first few span them, too."""
    few, many = (np.linspace(0, count - 1, size, dtype=int).tolist() for size in (SAMPLES, MOST))
    return list(dict.fromkeys([*few, *many]))


def smooth_fields(spec: SolverSpec, count: int, seed: int = 0) -> Array:
    """Sum a few long waves, with root mean square 1 in every channel and mean about 0; zero in padding.

    Args:
        spec: Spec of the solver.
        count: Number of states, `B`.
        seed: Seed of wavelengths and phases.

    Returns:
        States, `(B, C, *N)`.
    """
    generator = np.random.default_rng(seed)
    fields = np.stack([[_field(spec.state_shape[1:], generator) for _ in range(spec.state_shape[0])] for _ in range(count)])
    fields *= spec.active()
    axes = tuple(range(2, fields.ndim))
    sizes = np.sqrt(np.square(fields).mean(axes, keepdims=True))
    return np.asarray(fields / np.where(sizes > 0, sizes, 1.0), dtype=spec.dtype)


def _field(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    places = np.meshgrid(*(np.arange(points) / points for points in shape), indexing="ij")
    field = np.zeros(shape)
    for _ in range(WAVES):
        lengths = generator.integers(-MOST_LENGTHS, MOST_LENGTHS + 1, len(shape))
        along = sum(length * place for length, place in zip(lengths, places, strict=True))
        field += generator.normal() * np.cos(2 * np.pi * (along + generator.random()))
    return field
