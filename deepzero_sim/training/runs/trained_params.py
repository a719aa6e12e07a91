"""Scenario parameters that runs train: what they begin with, and what a run's checkpoint holds of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from deepzero_sim.common.trained_parameter import TrainedParameter
from deepzero_sim.coupling.trained_params import CORRECTOR, PARAMS, TrainedParams, starts_of, starts_within
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.errors import ConfigError, RunError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.checkpoints import Checkpoint
from deepzero_sim.training.validation import trained_tensors


def params_at_start(
    trained: Mapping[str, TrainedParameter],
    spec: SolverSpec,
    data: Trajectories,
    before: TrainedParams | None = None,
    same_data: bool = True,
) -> TrainedParams | None:
    """Build the scenario parameters that are trained, None if none are.

    Args:
        trained: Parameters that are trained, by name.
        spec: Spec of the solver.
        data: Training data.
        before: Parameters that the run trained which this one starts from; None if it trained none.
        same_data: True if that run was trained on the same data.

    Raises:
        ConfigError: That run trained others, or values of other simulations, or bounds exclude a value to start with.
    """
    left = {} if before is None else before.starts_from_here()
    lost = [name for name in left if name not in trained]
    if lost:
        raise ConfigError(
            f"the run to start from trained parameter {lost[0]!r}, which would go back to the value of the data: name it in "
            "train_params, too."
        )
    if not trained:
        return None
    starts = starts_of(spec, trained, data.params)
    for name, values in left.items():
        starts[name] = _carry_over(name, values, starts[name], trained[name], same_data)
    return TrainedParams(spec, trained, starts)


def _carry_over(name: str, values: torch.Tensor, starts: torch.Tensor, one: TrainedParameter, same_data: bool) -> torch.Tensor:
    """Return what a parameter starts with, `(1,)` or `(S,)`, of the values that another run came to.

    Raises:
        ConfigError: They are of other simulations, or of single ones where this run has one value for all.
    """
    if len(values) == 1 and not (one.per_simulation and len(starts) == 1):
        return values.expand(len(starts)).clone()
    if not one.per_simulation:
        raise ConfigError(
            f"the run to start from trained parameter {name!r} with a value per simulation: set per_simulation here, too, or "
            "start from another run."
        )
    if not same_data or len(values) != len(starts):
        raise ConfigError(
            f"the run to start from trained parameter {name!r} with a value per simulation of other data: start from a run on "
            "the same train_data."
        )
    return values


def params_of(
    checkpoint: Checkpoint, trained: Mapping[str, TrainedParameter], spec: SolverSpec, path: Path
) -> TrainedParams | None:
    """Restore the scenario parameters that a run trained; None if it trained none.

    Args:
        checkpoint: Checkpoint of the run.
        trained: Parameters that its settings name.
        spec: Spec of its solver.
        path: Folder of the run, for messages.

    Raises:
        RunError: The checkpoint holds other ones.
    """
    if not trained:
        return None
    found = trained_tensors(checkpoint).items()
    tensors = {name.removeprefix(PARAMS): tensor for name, tensor in found if name.startswith(PARAMS)}
    try:
        restored = TrainedParams(spec, trained, starts_within(tensors, spec))
        restored.load_state_dict(tensors)
    except (ConfigError, KeyError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint in {path} holds other trained parameters than its settings and the solver: restore it, or train "
            "anew."
        ) from error
    return restored


def without_params(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint with the network that its run is used by, as that of a run which trains nothing else."""
    found = trained_tensors(checkpoint)
    if any(name.startswith(PARAMS) for name in found):
        found = {name.removeprefix(CORRECTOR): tensor for name, tensor in found.items() if name.startswith(CORRECTOR)}
    return replace(checkpoint, tensors={f"network.{name}": tensor for name, tensor in found.items()})
