"""Distance of frames in time, compared with what a solver's step changes: frames should lie one step apart.

A file may say nothing of its times, or say it wrong, and errors against frames at other times look like any others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import SolverError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import NOTHING, Account, FailurePolicy, account_of
from deepzero_sim.solver.stepping import step_with_policy

#: Frames that are followed, and solver steps that each is followed for.
SAMPLES, LONGEST = 4, 8

#: Most solver steps that are taken, if none fails.
MOST_STEPS = SAMPLES * LONGEST

#: Distances of later frames that a step is compared with.
DISTANCES = (*range(1, 9), 10, 12, 16, 24, 32, 48, 64)

#: Share of the error of the next frame below which another one is decisively nearer.
DECISIVE = 0.5


@dataclass(frozen=True)
class SpacingFinding:
    """Outcome of a look at the distance of frames.

    Args:
        warning: Sentence that says how far apart frames seem to lie; None if nothing speaks against one solver step.
        account: Cost of the solver steps that it took, whatever was found.
    """

    warning: str | None = None
    account: Account = NOTHING


def spacing_warning(solver: Solver, trajectories: Trajectories, policy: FailurePolicy | None = None) -> SpacingFinding:
    """Look whether frames lie one step of a solver apart, as far as a few samples tell.

    From some frames `s_t`, one step `P(s_t)` is compared with the frames `s_{t+n}` for `n` of :data:`DISTANCES`, and up to
    :data:`LONGEST` steps with the next frame. If another `n` than 1 halves the error at least (the median over samples), and
    most of the change is explained by it, frames seem to lie a fraction of a step, or several steps, apart. It is a warning
    only: a coarse solver that is wrong by a factor looks the same. Steps that fail leave the question open.

    Args:
        solver: Coarse solver.
        trajectories: Reference frames, states of this solver.
        policy: Policy for steps that fail.
    """
    if trajectories.frames.shape[1] < 2:
        return SpacingFinding()
    simulations, starts, distances = _places(*trajectories.frames.shape[:2])
    params = trajectories.params[simulations] if trajectories.params.shape[1] else None
    following = trajectories.frames[simulations[:, None], starts[:, None] + [0, *distances]]
    steps, account = _steps(solver, following[:, 0], params, policy or FailurePolicy())
    if steps is None:
        return SpacingFinding(None, account)
    return SpacingFinding(_compare(solver.spec.name, following, distances, steps, trajectories.mask), account)


def spacing_of_first_steps(name: str, trajectories: Trajectories, first_steps: Array) -> str | None:
    """Look whether frames lie closer than one step, at no cost: see :func:`spacing_warning`, with steps taken before.

    Args:
        name: Name of the solver, for the sentence.
        trajectories: Reference frames.
        first_steps: States after one step from every frame but the last, `(S, T-1, C, *N)`; NaN where it failed.

    Returns:
        Sentence that says how far apart frames seem to lie; None if nothing speaks against one solver step.
    """
    simulations, starts, distances = _places(*trajectories.frames.shape[:2])
    steps = first_steps[simulations, starts][:, None]
    if not np.isfinite(steps).all():
        return None
    following = trajectories.frames[simulations[:, None], starts[:, None] + [0, *distances]]
    return _compare(name, following, distances, steps, trajectories.mask)


def _places(simulations: int, times: int) -> tuple[NDArray[np.intp], NDArray[np.intp], list[int]]:
    """Choose frames of all simulations and times alike, and distances of frames that follow each of them."""
    reach = min(times - 1, max(LONGEST, (times - 1) // 2))
    last = times - 1 - reach
    count = min(SAMPLES, simulations * (last + 1))
    places = np.linspace(0, simulations * (last + 1) - 1, count).astype(np.intp)
    return *np.divmod(places, last + 1), [distance for distance in DISTANCES if distance <= reach]


def _steps(solver: Solver, states: Array, params: Array | None, policy: FailurePolicy) -> tuple[Array | None, Account]:
    """Take steps from states, `(B, n, C, *N)`: as many as succeed, None if the first does not."""
    steps, account = list[Array](), NOTHING
    with single_threaded():
        for _ in range(LONGEST):
            try:
                result = step_with_policy(solver, states, params, policy)
            except SolverError as error:  # whoever takes the step in earnest says it
                account += account_of(error)
                break
            account += result.account
            if result.failures:
                break
            steps.append(result.states)
            states = result.states
    return (np.stack(steps, axis=1) if steps else None), account


def _compare(name: str, following: Array, distances: list[int], steps: Array, mask: NDArray[np.bool_]) -> str | None:
    """Find the number of frames a step, or of steps a frame, that decisively fits better than one; None if one does."""
    changes = _errors(following[:, 1:], following[:, :1], following, mask)
    by_frame = _errors(following[:, 1:], steps[:, :1], following, mask)
    by_step = _errors(following[:, 1:2], steps, following, mask)
    (frame, of_frames), (step, of_steps) = _better(by_frame, changes), _better(by_step, changes[:, :1])
    if min(of_frames, of_steps) >= DECISIVE:
        return None
    unless = "or ignore this if the solver is meant to be that far off"
    if of_frames <= of_steps:
        number = distances[frame]
        or_less = _end(number, DISTANCES[-1], ", or less")
        return (
            f"frames seem to lie 1/{number} of a step of solver {name!r} apart{or_less}: a step "
            f"leads nearer to the {_ordinal(number)} frame after it than to the next one ({_figures(by_frame, frame)}): take "
            f"every {_ordinal(number)} frame, {unless}."
        )
    number = step + 1
    return (
        f"frames seem to lie {number}{_end(number, LONGEST, ' or more')} steps of solver {name!r} apart: {number} steps lead "
        f"nearer to the next frame than one step does ({_figures(by_step, step)}): store a frame of each step, take {number} "
        f"steps at once in the solver, {unless}."
    )


def _end(number: int, last: int, words: str) -> str:
    """Return words for a number that is the last one looked at."""
    return words if number == last else ""


def _figures(errors: NDArray[np.float64], place: int) -> str:
    there, next_one = np.median(errors[:, place]), np.median(errors[:, 0])
    return f"errors of {there:.2g} and {next_one:.2g} standard deviations"


def _better(errors: NDArray[np.float64], changes: NDArray[np.float64]) -> tuple[int, float]:
    """Find the best place but the first, and its error over that of the first: 1 if it explains less than half of the change.

    Args:
        errors: Errors by sample and place, `(B, n)`.
        changes: Errors of a solver that changes nothing, `(B, n)` or `(B, 1)`.
    """
    if errors.shape[1] < 2:
        return 0, 1.0
    explained = errors < DECISIVE * np.broadcast_to(changes, errors.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(explained & (errors[:, :1] > 0), errors / errors[:, :1], 1.0)
    medians = np.median(ratios, axis=0)
    best = int(np.argmin(medians[1:])) + 1
    return best, float(medians[best])


def _errors(ours: Array, theirs: Array, samples: Array, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute mean absolute differences over active points, `(B, n)`, in standard deviations of each channel's samples."""
    scales = np.ones(mask.shape)
    for channel, active in enumerate(mask):
        deviation = samples[:, :, channel, active].std(dtype=np.float64) if active.any() else 0.0
        scales[channel] = deviation if deviation > 0 else 1.0
    difference = np.abs(np.subtract(ours, theirs, dtype=np.float64)) / scales
    result: NDArray[np.float64] = difference[:, :, mask].mean(axis=2)
    return result


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
