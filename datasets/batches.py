"""Training batches for solver loops, cut out of trajectories."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.trajectories import Trajectories, as_batch
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, drop, total
from deepzero_sim.solver.stepping import step_with_policy

#: Most states that are advanced in one call.
CALL = 64


def advance_frames(solver: Solver, trajectories: Trajectories, policy: FailurePolicy | None = None) -> Array:
    """Take the solver's step from every frame but the last, as :func:`advance_frames_with_account` does; return the states."""
    return advance_frames_with_account(solver, trajectories, policy)[0]


def advance_frames_with_account(
    solver: Solver, trajectories: Trajectories, policy: FailurePolicy | None = None
) -> tuple[Array, Account]:
    """Take the solver's step from every frame but the last: the first step of every rollout, taken only once.

    Args:
        solver: Coarse solver.
        trajectories: Reference frames.
        policy: Policy for steps that fail; they end the run if None. A step that is dropped is NaN: no rollout starts there.

    Returns:
        States `(S, T-1, C, *N)`, and the cost of the steps.

    Raises:
        SolverError: A step failed, and the policy ends the run.
        DataError: The frames are not states of this solver, or lie on disk because they are many.
    """
    trajectories.require_fit(solver.spec)
    require_data(
        not trajectories.on_disk,
        f"the step from every frame of {trajectories.frames.nbytes / 2**30:.1f} GiB of data would not be kept in memory: give "
        "UnrolledBatches None for it, and rollouts begin with a step of their own.",
    )
    policy = policy or FailurePolicy()
    starts = trajectories.frames[:, :-1]
    states, params = as_batch(starts, trajectories.params)
    advanced, accounts = np.empty_like(states), []
    with single_threaded():
        for first in range(0, len(states), CALL):
            part = slice(first, first + CALL)
            advanced[part], account = advance_part(solver, states, params, part, starts.shape[1], policy)
            accounts.append(account)
    return advanced.reshape(starts.shape), total(accounts)


def advance_frames_in_memory(solver: Solver, trajectories: Trajectories) -> Array | None:
    """Take the solver's step from every frame but the last; None where every rollout takes its own."""
    return None if trajectories.on_disk or trajectories.unobserved else advance_frames(solver, trajectories)


def advance_part(
    solver: Solver, states: Array, params: Array | None, part: slice, frames: int, policy: FailurePolicy
) -> tuple[Array, Account]:
    """Advance some frames of all simulations in one call.

    Args:
        solver: Coarse solver.
        states: Frames `(S frames, C, *N)`, simulation after simulation.
        params: Scenario parameters `(S frames, K)` or None.
        part: Slice of the frames to advance.
        frames: Number of frames of a simulation.
        policy: Policy for steps that fail.

    Returns:
        States one step later, NaN where a step was dropped; and the cost of the steps.

    Raises:
        SolverError: A step failed, and the policy ends the run.
    """
    result = step_with_policy(solver, states[part], None if params is None else params[part], policy)
    account = result.account
    for place, error in sorted(result.failures.items()):
        simulation, frame = divmod(part.start + place, frames)
        account += Account(0, (drop(error, policy, f"in the step from frame {frame} of simulation {simulation}"),))
        result.states[place] = np.nan
    return result.states, account


def require_long_enough(trajectories: Trajectories, unroll: int) -> None:
    """Refuse trajectories that are shorter than a rollout.

    Raises:
        DataError: They are shorter.
    """
    frames = trajectories.frames.shape[1]
    require_data(
        frames <= unroll or bool(trajectories.complete[:, : frames - unroll].any()),
        f"a rollout of {unroll} steps must begin at a frame of which every value was observed, and these trajectories have "
        "none that is followed by as many: give the first frame of each in full, or unroll fewer steps.",
    )
    require_data(
        frames > unroll,
        f"a rollout of {unroll} steps needs trajectories of at least {unroll + 1} frames, these have {frames}: "
        "unroll fewer steps or generate longer ones.",
    )


class UnrolledBatches:
    """Batches of training steps, by their number, as `LoopOracle` takes them.

    They are `(states, params, references, advanced)`, or the first three of these where the solver's steps from the frames are
    not known; where values were not observed, references are NaN. Numbered, there are always five, with None for unknown steps
    and the numbers of the simulations, `(B,)`. Rollouts start at frames drawn uniformly from all simulations, where the
    solver's step has not failed, and every value was observed. A batch depends on the seed and its number only.

    Args:
        trajectories: Reference frames, in memory or on disk.
        advanced: States after the solver's step from every frame, `(S, T-1, C, *N)`, NaN where it failed; None if they are not
            known, so that every rollout begins with a step of its own.
        batch_size: Number of rollouts of a batch, `B`.
        unroll: Number of steps of a rollout, `T`.
        seed: Seed of the draws.
        numbered: True for batches that tell of which simulation each rollout is.

    Raises:
        DataError: The trajectories are shorter than a rollout, or no rollout can start anywhere.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        advanced: Array | None,
        batch_size: int,
        unroll: int,
        seed: int = 0,
        numbered: bool = False,
    ) -> None:
        simulations, frames = trajectories.frames.shape[:2]
        require_long_enough(trajectories, unroll)
        self._frames = trajectories.frames
        self._params = trajectories.params if trajectories.params.shape[1] else None
        self._advanced = advanced
        self._limits = simulations, frames - unroll
        self._starts = None if advanced is None else _starts_that_succeed(advanced[:, : frames - unroll])
        if trajectories.unobserved:
            self._starts = np.argwhere(trajectories.complete[:, : frames - unroll])
        self._size, self._unroll, self._seed, self._numbered = batch_size, unroll, seed, numbered

    def __call__(self, step: int) -> tuple[torch.Tensor | None, ...]:
        generator = np.random.default_rng([self._seed, step])
        if self._starts is None:
            simulation, start = (generator.integers(limit, size=self._size) for limit in self._limits)
        else:
            simulation, start = self._starts[generator.integers(len(self._starts), size=self._size)].T
        rollouts = self._frames[simulation[:, None], start[:, None] + np.arange(self._unroll + 1)]
        batch = (
            torch.from_numpy(rollouts[:, 0].copy()),
            None if self._params is None else torch.from_numpy(self._params[simulation]),
            torch.from_numpy(rollouts[:, 1:].copy()),
        )
        advanced = None if self._advanced is None else torch.from_numpy(self._advanced[simulation, start])
        if self._numbered:
            return (*batch, advanced, torch.from_numpy(np.asarray(simulation, np.int64)))
        return batch if advanced is None else (*batch, advanced)


def _starts_that_succeed(advanced: Array) -> NDArray[np.intp] | None:
    """Find the frames `(n, 2)`, simulation and time, from which the solver's step succeeded; None if it did from all.

    Raises:
        DataError: It failed from all.
    """
    known = np.isfinite(advanced).all(axis=tuple(range(2, advanced.ndim)))
    require_data(
        bool(known.any()),
        "the solver's step failed from every frame that a rollout may start at: check the solver and the data.",
    )
    return None if known.all() else np.argwhere(known)
