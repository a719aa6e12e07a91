"""Training batches for solver loops, cut out of trajectories."""

from __future__ import annotations

import numpy as np
import torch

from deepzero_sim.common.types import Array
from deepzero_sim.datasets.trajectories import Trajectories, as_batch
from deepzero_sim.errors import DataError
from deepzero_sim.execution.executors import single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy
from deepzero_sim.solver.stepping import advance, leave_out

#: States advanced in one call where there are many.
CALL = 64


def advance_frames(
    solver: Solver, trajectories: Trajectories, policy: FailurePolicy | None = None, log: FailureLog | None = None
) -> Array:
    """The solver's step from every frame but the last, `(S, T-1, C, *N)`: the first step of every rollout, taken once.

    Args:
        solver: the coarse one.
        trajectories: reference frames.
        policy: what is done about a step that fails; the end if None. One that is dropped is NaN: no rollout starts there.
        log: where that is noted.

    Raises:
        SolverError: a step failed, and the policy ends the run.
        DataError: the frames are no states of this solver.
    """
    trajectories.require_fit(solver.spec)
    policy = policy or FailurePolicy()
    log = FailureLog() if log is None else log
    starts = trajectories.frames[:, :-1]
    states, params = as_batch(starts, trajectories.params)
    advanced = np.empty_like(states)
    with single_threaded():
        for first in range(0, len(states), CALL):
            part = slice(first, first + CALL)
            advanced[part] = advance_part(solver, states, params, part, starts.shape[1], policy, log)
    return advanced.reshape(starts.shape)


def advance_part(
    solver: Solver, states: Array, params: Array | None, part: slice, frames: int, policy: FailurePolicy, log: FailureLog
) -> Array:
    """Advance some of the frames of all simulations, in one call; NaN where a step is left out.

    Args:
        solver: the coarse one.
        states: `(S frames, C, *N)`, simulation after simulation.
        params: `(S frames, K)` or None.
        part: those to advance.
        frames: of a simulation.
        policy: what is done about a step that fails.
        log: where that is noted.

    Raises:
        SolverError: a step failed, and the policy ends the run.
    """
    found = advance(solver, states[part], None if params is None else params[part], policy, log)
    for place, error in sorted(found.failures.items()):
        simulation, frame = divmod(part.start + place, frames)
        leave_out(error, policy, log, f"in the step from frame {frame} of simulation {simulation}")
        found.states[place] = np.nan
    return found.states


def require_long_enough(trajectories: Trajectories, unroll: int) -> None:
    """Raise unless a rollout fits into the trajectories.

    Raises:
        DataError: they are shorter.
    """
    frames = trajectories.frames.shape[1]
    if frames <= unroll:
        raise DataError(
            f"a rollout of {unroll} steps needs trajectories of at least {unroll + 1} frames, these have {frames}: "
            "unroll fewer steps or generate longer ones."
        )


class UnrolledBatches:
    """The batch of a training step, by its number: `(states, params, references, advanced)`, as `LoopOracle` takes it.

    Rollouts start at frames drawn uniformly from all simulations, where the solver's step is known. A batch depends on the seed
    and its number only.

    Args:
        trajectories: reference frames.
        advanced: `(S, T-1, C, *N)`, the solver's step from every frame; NaN where it failed.
        batch_size: `B`.
        unroll: steps of a rollout, `T`.
        seed: of the draws.

    Raises:
        DataError: the trajectories are shorter than a rollout, or no rollout can start anywhere.
    """

    def __init__(self, trajectories: Trajectories, advanced: Array, batch_size: int, unroll: int, seed: int = 0) -> None:
        simulations, frames = trajectories.frames.shape[:2]
        require_long_enough(trajectories, unroll)
        self._frames = torch.from_numpy(trajectories.frames)
        self._params = torch.from_numpy(trajectories.params) if trajectories.params.shape[1] else None
        self._advanced = torch.from_numpy(advanced)
        self._limits = simulations, frames - unroll
        known = np.isfinite(advanced[:, : frames - unroll]).all(axis=tuple(range(2, advanced.ndim)))
        self._starts = None if known.all() else torch.from_numpy(np.argwhere(known))
        if self._starts is not None and not len(self._starts):
            raise DataError(
                "the solver's step failed from every frame that a rollout may start at: check the solver and the data."
            )
        self._size, self._unroll, self._seed = batch_size, unroll, seed

    def __call__(self, step: int) -> tuple[torch.Tensor | None, ...]:
        generator = np.random.default_rng([self._seed, step])
        if self._starts is None:
            simulation, start = (torch.from_numpy(generator.integers(limit, size=self._size)) for limit in self._limits)
        else:
            simulation, start = self._starts[generator.integers(len(self._starts), size=self._size)].T
        following = start[:, None] + torch.arange(1, self._unroll + 1)
        return (
            self._frames[simulation, start],
            None if self._params is None else self._params[simulation],
            self._frames[simulation[:, None], following],
            self._advanced[simulation, start],
        )
