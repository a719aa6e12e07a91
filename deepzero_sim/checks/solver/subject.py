"""Who is checked: a solver, sample states, and the training whose cost is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from deepzero_sim.checks.solver.sample_states import smooth_fields
from deepzero_sim.checks.solver.trial import SAMPLES, chosen
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.models.build import build_network
from deepzero_sim.models.corrector import CORRECTORS
from deepzero_sim.solver.contract import Solver, require_states


@dataclass(frozen=True, eq=False)
class Training:
    """A training through the solver.

    Args:
        network: the corrector; None for `small`.
        unroll: solver steps of a rollout.
        batch_size: rollouts of a gradient.
        seed: of all that is drawn.
    """

    network: nn.Module | None
    unroll: int
    batch_size: int
    seed: int

    def network_for(self, solver: Solver) -> nn.Module:
        """The corrector of a solver."""
        if self.network is not None:
            return self.network
        return build_network(Component("small"), CORRECTORS, solver.spec, self.seed)


@dataclass(frozen=True, eq=False)
class Subject:
    """A solver and the sample states at which it is looked at.

    Args:
        solver: any.
        states: `(S, C, *N)`, in the order in which they are looked at.
        params: `(S, K)` or None.
        places: of the states among all sample states.
        made_up: whether the states are.
        training: whose cost is asked.
    """

    solver: Solver
    states: Array
    params: Array | None
    places: Sequence[int]
    made_up: bool
    training: Training


def subject_of(solver: Solver, states: Array | None, params: Array | None, training: Training) -> Subject:
    """A solver and as many of its sample states as may be looked at, spread over all.

    Args:
        solver: any.
        states: `(B, C, *N)`; None for smooth fields that are made up.
        params: `(B, K)` or None.
        training: whose cost is asked.

    Raises:
        SolverError: they are none of the solver's states.
    """
    made_up = states is None
    given = smooth_fields(solver.spec, SAMPLES if params is None else len(params), training.seed) if states is None else states
    require_states(solver.spec, given, params)
    places = chosen(len(given))
    return Subject(solver, given[places], None if params is None else params[places], places, made_up, training)
