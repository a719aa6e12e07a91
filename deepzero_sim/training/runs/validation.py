"""Rollouts that a training of a corrector is validated on: of simulations that it does not see, or fixed ones that it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite, isnan, nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import Array, NamedTensors
from deepzero_sim.coupling.evaluation import measure_errors
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import SolverError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models.corrector import NoCorrection
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.solver.failure_policy import account_of, count_failures
from deepzero_sim.training.runs.held_back import numbers_of
from deepzero_sim.training.validation_record import Measurement

#: Most rollouts of a measurement, on data that training does not see and on those that it does.
ROLLOUTS, TRAINING_ROLLOUTS = 8, 4

#: Steps of so many rollouts in those of training, at most: where there are fewer rollouts, they are longer.
LENGTH = 4


def suitable_steps(data: Trajectories, unroll: int, most: int) -> int:
    """Return how far rollouts of a validation go where nobody said: as far as the data, at no more cost than short ones.

    A measurement takes at most as many solver steps as `most` rollouts of :data:`LENGTH` times the steps of those of training;
    where there are fewer simulations than that, each is rolled out farther.

    Args:
        data: Trajectories that are measured on.
        unroll: Steps of a rollout in training, the largest of all stages.
        most: Number of rollouts.
    """
    simulations, frames = data.frames.shape[:2]
    return min(frames - 1, most * LENGTH * unroll // min(most, simulations))


def require_steps(data: Trajectories, length: int) -> None:
    """Refuse rollouts of a validation that are longer than the data.

    Raises:
        DataError: They are.
    """
    frames = data.frames.shape[1]
    require_data(
        length < frames,
        f"validate_steps must be at most {frames - 1} with trajectories of {frames} frames, not {length}: measure fewer steps.",
    )


def fixed_rollouts(data: Trajectories, unroll: int, most: int, length: int | None = None) -> Trajectories:
    """Cut rollouts that begin at places spread over all simulations and times: their first frames and references.

    Args:
        data: Trajectories.
        unroll: Steps of a rollout in training.
        most: Number of rollouts.
        length: Steps of each; as in runs of earlier versions if None, :data:`LENGTH` times those of training.

    Raises:
        DataError: The data are shorter.
    """
    simulations, frames = data.frames.shape[:2]
    if length is not None:
        require_steps(data, length)
    steps = min(LENGTH * unroll, frames - 1) if length is None else length
    chosen = np.unique(np.linspace(0, simulations - 1, min(most, simulations)).astype(int))
    each = most // len(chosen)
    if length is not None:  # none beside another that costs more than training's own would
        each = min(each, (frames - 1) // steps) if steps <= LENGTH * unroll else 1
    places = [(int(one), int(start)) for one in chosen for start in _spread(data.complete[one, : frames - steps], max(1, each))]
    require_data(
        bool(places),
        f"a validation of {steps} steps must begin at frames of which every value was observed, and there are none: give the "
        "first frame of each simulation in full, or leave out what is held back.",
    )
    cut = np.stack([data.frames[simulation, start : start + steps + 1] for simulation, start in places])
    simulated, numbers = [simulation for simulation, _ in places], numbers_of(data)
    return replace(data, frames=cut, params=data.params[simulated], numbers=[numbers[one] for one in simulated])


def _spread(complete: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """Choose so many of the frames that are complete, bool `(T,)`, spread over time."""
    there = np.flatnonzero(complete)
    return there[np.unique(np.linspace(0, len(there) - 1, count).astype(int))] if len(there) else there


def measure_on(loop: SolverLoop, rollouts: Trajectories, scales: Array) -> Callable[[], Measurement]:
    """Return a function that measures a loop's network on fixed rollouts.

    Args:
        loop: Solver and corrector.
        rollouts: First frames and references, see :func:`fixed_rollouts`.
        scales: Standard deviation of each channel in the data, `(C,)`.
    """
    length = rollouts.frames.shape[1] - 1

    def measure() -> Measurement:
        found = measure_errors(loop, rollouts, scales)
        error = found.mae if isnan(found.relative) else found.relative  # NaN: all channels are constant
        finite = float((~found.errors.isinf()).double().mean())
        return Measurement(0, error, found.solver_steps, found.failures, length, finite)

    return measure


def measure_source_on(loop: SolverLoop, rollouts: Trajectories, scales: Array) -> Callable[[], Measurement]:
    """Return a function that measures a loop's solver alone on fixed rollouts; where it fails, its error is infinite."""
    alone = measure_on(SolverLoop(loop.solver, NoCorrection(), on_failure=loop.on_failure), rollouts, scales)

    def measure() -> Measurement:
        try:
            return alone()
        except SolverError as error:  # it may, as long as the corrected solver does not
            account = account_of(error).with_incident(error, "lost")
            return Measurement(0, inf, account.steps, count_failures(account.incidents), finite=0.0)

    return measure


def loss_of_start(oracle: Oracle, start: NamedTensors) -> Callable[[Any], tuple[float, int]]:
    """Return a function from a batch to the loss of the network that a run started from, and the solver steps it took.

    Args:
        oracle: Oracle of the run's network, which is left as it is.
        start: Tensors of the network that the run started from.
    """

    def loss_of(batch: Any) -> tuple[float, int]:
        model = oracle.model
        with torch.no_grad(), single_threaded(), preserve_state(model), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.load_state_dict(start)
            try:
                loss, account = oracle.differentiable_loss(batch)
            except SolverError as error:  # then nothing can be said
                return nan, account_of(error).steps
        return (float(loss) if isfinite(float(loss)) else nan), account.steps

    return loss_of
