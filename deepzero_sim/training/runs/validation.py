"""Rollouts that a training of a corrector is validated on: of simulations that it does not see, or fixed ones that it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite, nan
from typing import Any

import numpy as np
import torch

from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.requirements import require_data
from deepzero_sim.common.types import NamedTensors
from deepzero_sim.coupling.evaluation import measure_errors
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets.frames import select
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import SolverError
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.solver.failure_policy import account_of
from deepzero_sim.training.validation import Measurement

#: Most rollouts of a measurement, on data that training does not see and on those that it does.
ROLLOUTS, TRAINING_ROLLOUTS = 8, 4

#: Length of these rollouts, in those of training.
LENGTH = 4


def suitable_held_back(simulations: int) -> int:
    """Return how many of so many simulations are held back where nobody said: about a fifth, none of one or two."""
    return max(1, round(simulations / 5)) if simulations >= 3 else 0


def hold_back(data: Trajectories, count: int) -> tuple[Trajectories, Trajectories | None]:
    """Divide data into those to train on and the last simulations, which are held back; None if that are none.

    Raises:
        DataError: Nothing would be left to train on.
    """
    simulations = data.frames.shape[0]
    require_data(
        count < simulations,
        f"held_back must leave a simulation to train on, but the data have {simulations} and {count} are held back: hold back "
        "fewer, or name validation_data.",
    )
    if not count:
        return data, None
    return _part(data, slice(simulations - count)), _part(data, slice(simulations - count, simulations))


def _part(data: Trajectories, simulations: slice) -> Trajectories:
    return replace(data, frames=select(data.frames, simulations), params=data.params[simulations])


def fixed_rollouts(data: Trajectories, unroll: int, most: int) -> Trajectories:
    """Cut rollouts that begin at places spread over all simulations and times: their first frames and references.

    Args:
        data: Trajectories.
        unroll: Steps of a rollout in training.
        most: Number of rollouts.
    """
    simulations, frames = data.frames.shape[:2]
    steps = min(LENGTH * unroll, frames - 1)
    chosen = np.unique(np.linspace(0, simulations - 1, min(most, simulations)).astype(int))
    starts = np.unique(np.linspace(0, frames - 1 - steps, max(1, most // len(chosen))).astype(int))
    places = [(int(simulation), int(start)) for simulation in chosen for start in starts]
    cut = np.stack([data.frames[simulation, start : start + steps + 1] for simulation, start in places])
    return replace(data, frames=cut, params=data.params[[simulation for simulation, _ in places]])


def measure_on(loop: SolverLoop, data: Trajectories, unroll: int, most: int) -> Callable[[], Measurement]:
    """Return a function that measures a loop's network on fixed rollouts of the data."""
    rollouts, scales = fixed_rollouts(data, unroll, most), data.scales()[0]

    def measure() -> Measurement:
        found = measure_errors(loop, rollouts, scales)
        error = found.mae if found.relative != found.relative else found.relative  # NaN: all channels are constant
        return Measurement(0, error, found.solver_steps, found.failures)

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
