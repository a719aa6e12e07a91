"""`deepzero-sim serve`: a run's solver, corrected and not, and the loss of its network, as models over HTTP."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any

from deepzero_sim.cli.console import console
from deepzero_sim.cli.settings.serve import ServeSettings
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames_in_memory
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.source import Source, path_of
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.serving import ServedLoop, ServedLoss, ServedModel, ServedParameters, ServedSolver, serve
from deepzero_sim.solver.stepped_inputs import with_inputs_at_rest
from deepzero_sim.training.runs.trained_run import (
    RunSettings,
    differences_accepted_by,
    rollout_loss,
    run_settings,
    trained_loop,
)
from deepzero_sim.training.runs.unrolls import Unrolls


def run(settings: ServeSettings) -> None:
    """Serve a trained run until Ctrl-C."""
    models, left_out = models_of_run(settings.run, settings.data, settings.data_may_differ)
    if left_out is not None:
        console.print(f"left out loss: {left_out}")
    serve(models, settings.host, settings.port, timeout=settings.timeout)


class _Batches:
    """Batches of a training. Only who asks for a loss waits for the solver's step from every frame."""

    def __init__(self, loop: SolverLoop, data: Trajectories, settings: RunSettings) -> None:
        self._loop, self._data, self._settings = loop, data, settings

    @functools.cached_property
    def _batches(self) -> UnrolledBatches:
        settings, first_steps = self._settings, None
        if self._loop.knows_first_step:
            first_steps = advance_frames_in_memory(with_inputs_at_rest(self._loop.solver), self._data)
        longest, numbered = Unrolls.of(settings.unroll).longest, self._loop.needs_simulations
        return UnrolledBatches(self._data, first_steps, settings.batch_size, longest, settings.seed, numbered)

    def __call__(self, number: int) -> Any:
        return self._batches(number)


def models_of_run(
    run: Path, data: Source | None = None, data_may_differ: Collection[str] = ()
) -> tuple[dict[str, ServedModel], str | None]:
    """Build the models that a run is served as; returns them, and why the loss is left out if it is.

    ``corrected`` and ``solver`` take a state (and parameters) one step further, with and without the correction;
    ``parameters`` gives the network's, and ``loss`` is the rollout loss of others on a batch.

    Args:
        run: Run folder.
        data: Trajectories that batches are cut from; the run's training data if None.
        data_may_differ: Things that they may say otherwise than the solver, besides what the run accepts.

    Raises:
        RunError, DataError: The folder or the data cannot be used.
    """
    settings, loop = run_settings(run), trained_loop(run)
    models: dict[str, ServedModel] = {"corrected": ServedLoop(loop), "solver": ServedSolver(with_inputs_at_rest(loop.solver))}
    if settings.method == "SRC":
        return models, "a run of SRC trains no network"
    models["parameters"] = ServedParameters(loop.model)
    source = settings.train_data if data is None else data
    if data is None and not path_of(source).exists():
        return models, f"there is no {path_of(source)}, the run's training data: name some by --data"
    frames = open_trajectories(source, loop.solver.spec, {*data_may_differ, *differences_accepted_by(run)})
    for note in frames.notes:
        console.print(note)
    loss = rollout_loss(loop.solver.spec, frames)
    models["loss"] = ServedLoss(LoopOracle(loop, loss, unobserved=frames.unobserved), _Batches(loop, frames, settings))
    return models, None
