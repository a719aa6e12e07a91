"""Spread of the rollouts of an ensemble that training ended with, as an error bar of the corrector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deepzero_sim.common.module_state import preserve_state, write
from deepzero_sim.common.randomness import new_generator
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.evaluation import Evaluation, measure_errors
from deepzero_sim.coupling.loop import SolverLoop, as_tensor
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import SolverError
from deepzero_sim.estimators.eki import STORED, Ensemble
from deepzero_sim.oracle.parameters import perturbed_parameters, trainable
from deepzero_sim.solver.failure_policy import account_of
from deepzero_sim.training.checkpoints import Checkpoint
from deepzero_sim.training.progress import tensors_of
from deepzero_sim.training.runs.folders import last_stage
from deepzero_sim.training.runs.trained_run import run_settings

#: Number of members that are rolled out.
MEMBERS = 16


@dataclass(frozen=True, eq=False)
class EnsembleSpread:
    """Spread of the rollouts of some members of an ensemble.

    Args:
        deviations: Standard deviations over the members in place of errors, averaged over active points; None of less than two
            members.
        members: Number of members that were rolled out.
        lost: Number of those whose rollouts diverged or failed, which are left out.
        solver_steps: Number of states advanced by one step.
    """

    deviations: Evaluation | None
    members: int
    lost: int
    solver_steps: int


def ensemble_of(path: Path, load: Callable[[Path], Checkpoint]) -> Ensemble | None:
    """Return the ensemble that a run's training ended with; None if its estimator keeps none."""
    folder = last_stage(path)
    if run_settings(folder).method != "ZO-SOL":
        return None
    tensors = tensors_of("estimator", load(folder))
    return Ensemble.load(tensors) if set(tensors) == STORED else None


def measure_spread(
    ensemble: Ensemble, loop: SolverLoop, data: Trajectories, scales: Array, report: Callable[[], None] = lambda: None
) -> EnsembleSpread:
    """Roll out members of an ensemble around a trained network.

    Args:
        ensemble: Ensemble.
        loop: Solver and corrector.
        data: First frames and references, two frames or more of every simulation.
        scales: Standard deviation of each channel in the reference data, `(C,)`, as errors are measured by.
        report: Function called after every step.
    """
    parameters = trainable(loop.model)
    weights = ensemble.draw(max(ensemble.size + 1, MEMBERS), new_generator(0))[:MEMBERS]
    kept, steps = list[Evaluation](), 0
    for changed in perturbed_parameters(parameters, ensemble.displacements(weights, parameters)):
        with preserve_state(loop.model):
            write(loop.model, changed)
            try:
                found = measure_errors(loop, data, scales, report)
            except SolverError as error:  # the report is of the network, which did not fail
                steps += account_of(error).steps
                continue
        steps += found.solver_steps
        if not bool(found.given_up.any()):
            kept.append(found)
    deviations = _deviations(kept, as_tensor(data.mask)) if len(kept) > 1 else None
    return EnsembleSpread(deviations, MEMBERS, MEMBERS - len(kept), steps)


def _deviations(evaluations: list[Evaluation], mask: torch.Tensor) -> Evaluation:
    """Return standard deviations over rollouts, in place of errors."""
    deviations = torch.stack([one.rollout for one in evaluations]).std(dim=0).double()
    channels = [deviations[:, :, c, on].mean(dim=2) for c, on in enumerate(mask)]  # NaN of a channel without active points
    return replace(
        evaluations[0], errors=deviations[:, :, mask].mean(dim=2), channel_errors=torch.stack(channels, dim=2), failures={}
    )
