"""A run's solver, corrected and not, and the loss of its network: models to serve."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any

from deepzero_sim.cli.experiment import accepted_differences, rollout_loss, run_settings, trained_loop
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.oracle.base import LoopOracle
from deepzero_sim.serving import ServedLoop, ServedLoss, ServedModel, ServedParameters, ServedSolver
from deepzero_sim.solver.contract import Solver


class _Batches:
    """The batches of a training. Only who asks for a loss waits for the solver's step from every frame."""

    def __init__(self, solver: Solver, data: Trajectories, settings: dict[str, Any]) -> None:
        self._solver, self._data, self._settings = solver, data, settings

    @functools.cached_property
    def _cut(self) -> UnrolledBatches:
        size, unroll, seed = (self._settings[key] for key in ("batch_size", "unroll", "seed"))
        return UnrolledBatches(self._data, advance_frames(self._solver, self._data), size, unroll, seed)

    def __call__(self, number: int) -> Any:
        return self._cut(number)


def models_of_run(
    run: Path, data: Path | None = None, data_may_differ: Collection[str] = ()
) -> tuple[dict[str, ServedModel], str | None]:
    """The models that a run is served as, and why the loss is left out if it is.

    ``corrected`` and ``solver`` take a state (and parameters) one step further, with and without the correction;
    ``parameters`` gives the network's, and ``loss`` is the rollout loss of others on a batch.

    Args:
        run: its folder.
        data: HDF5 trajectories that batches are cut from; the run's training data if None.
        data_may_differ: what they may say otherwise than the solver, besides what the run accepts.

    Raises:
        RunError, DataError: the folder or the data cannot be used.
    """
    settings, loop = run_settings(run), trained_loop(run)
    models: dict[str, ServedModel] = {"corrected": ServedLoop(loop), "solver": ServedSolver(loop.solver)}
    if settings["method"] == "SRC":
        return models, "a run of SRC trains no network"
    models["parameters"] = ServedParameters(loop.corrector)
    path = Path(settings["train_data"]) if data is None else data
    if data is None and not path.exists():
        return models, f"there is no {path}, the run's training data: name some by --data"
    frames = trajectories.load(path, loop.solver.spec, {*data_may_differ, *accepted_differences(run)})
    models["loss"] = ServedLoss(LoopOracle(loop, rollout_loss(frames)), _Batches(loop.solver, frames, settings))
    return models, None
