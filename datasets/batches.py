"""Training batches for solver loops, cut out of trajectories."""

from __future__ import annotations

import numpy as np
import torch

from deepzero_sim.advancing import advance_all
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import DataError
from deepzero_sim.failures import FailureLog, FailurePolicy
from deepzero_sim.solver import Solver
from deepzero_sim.types import Array

#: States advanced in one call where there are many.
CALL = 64

#: Where a step fails that all training needs.
FROM_DATA = "in the step from a state of the data"


def advance_frames(
    solver: Solver, trajectories: Trajectories, policy: FailurePolicy | None = None, log: FailureLog | None = None
) -> Array:
    """The solver's step from every frame but the last, `(S, T-1, C, *N)`: the first step of every rollout, taken once.

    Args:
        solver: the coarse one.
        trajectories: reference frames.
        policy: how often a step that fails is taken again; never if None.
        log: where that is noted.

    Raises:
        SolverError: a step failed all the same.
    """
    policy, log = policy or FailurePolicy(), log or FailureLog()
    starts = trajectories.frames[:, :-1]
    states = starts.reshape(-1, *starts.shape[2:])
    params = np.repeat(trajectories.params, starts.shape[1], axis=0)
    given = params if params.shape[1] else None
    parts = [
        advance_all(solver, states[i : i + CALL], None if given is None else given[i : i + CALL], policy, log, FROM_DATA)
        for i in range(0, len(states), CALL)
    ]
    return np.concatenate(parts).reshape(starts.shape)


class UnrolledBatches:
    """The batch of a training step, by its number: `(states, params, references, advanced)`, as `LoopOracle` takes it.

    Rollouts start at frames drawn uniformly from all simulations. A batch depends on the seed and its number only.

    Args:
        trajectories: reference frames.
        advanced: `(S, T-1, C, *N)`, the solver's step from every frame.
        batch_size: `B`.
        unroll: steps of a rollout, `T`.
        seed: of the draws.

    Raises:
        DataError: the trajectories are shorter than a rollout.
    """

    def __init__(self, trajectories: Trajectories, advanced: Array, batch_size: int, unroll: int, seed: int = 0) -> None:
        simulations, frames = trajectories.frames.shape[:2]
        if frames <= unroll:
            raise DataError(
                f"a rollout of {unroll} steps needs trajectories of at least {unroll + 1} frames, these have {frames}: "
                "unroll fewer steps or generate longer ones."
            )
        self._frames = torch.from_numpy(trajectories.frames)
        self._params = torch.from_numpy(trajectories.params) if trajectories.params.shape[1] else None
        self._advanced = torch.from_numpy(advanced)
        self._limits = simulations, frames - unroll
        self._size, self._unroll, self._seed = batch_size, unroll, seed

    def __call__(self, step: int) -> tuple[torch.Tensor | None, ...]:
        generator = np.random.default_rng([self._seed, step])
        simulation, start = (torch.from_numpy(generator.integers(limit, size=self._size)) for limit in self._limits)
        following = start[:, None] + torch.arange(1, self._unroll + 1)
        return (
            self._frames[simulation, start],
            None if self._params is None else self._params[simulation],
            self._frames[simulation[:, None], following],
            self._advanced[simulation, start],
        )
