"""Start of a training: its folder and checkpoint, and the work before the first training step, counted and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.common.types import Array
from deepzero_sim.errors import RunError
from deepzero_sim.training.active_set import ActiveSet
from deepzero_sim.training.checkpoints import CONFIG, read_settings
from deepzero_sim.training.preparation import PREPARATION, Entry, Preparation
from deepzero_sim.training.progress import progress_of
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.runs.first_steps import FirstSteps, other_runs
from deepzero_sim.training.runs.folders import runs_started_from
from deepzero_sim.training.runs.settings import AFTER, ROLLOUT, TrainSettings
from deepzero_sim.training.runs.trained_run import function_part
from deepzero_sim.training.runs.trust import trust_parts


class Start:
    """Work of a start before its first training step, counted and timed.

    Args:
        settings: Settings of the run.
        contents: Digests of the data that the settings name.
        started: Time of the start, as of `time.perf_counter`.

    Attributes:
        done: Checkpoint to go on from, None if there is none.
        finished: True if nothing is left to do.
        checking: Solver steps of the check that a loss repeats.
    """

    def __init__(self, settings: TrainSettings, contents: Mapping[str, str], started: float) -> None:
        self._settings, self._started, self._contents = settings, started, contents
        self.done, self._before = None, 0.0
        if (settings.run / CONFIG).exists():
            run = self.claim()
            self.done = run.load()
            self._before = self._preparation(run).seconds
            self._resize(run)
        self.finished = self.done is not None and progress_of(self.done, settings.run).step >= settings.updates
        self.checking = 0
        self._elsewhere = 0.0  # seconds that are counted with the active coordinates

    def _resize(self, run: RunFolder) -> None:
        """Give a run as many updates as the settings say, if it had others before."""
        path, updates = run.path, self._settings.updates
        before = read_settings(path).get("updates")
        if before == updates:
            return
        if self.done is not None:
            done = progress_of(self.done, path).step
            if done > updates:
                raise RunError(
                    f"{path} has done {done} updates, more than the {updates} that are asked for: ask for {done} or more, or "
                    "name another folder with --run."
                )
            later = runs_started_from(path)
            if later:
                raise RunError(
                    f"{later[0]} started from the network that {path} holds after {done} updates: train on in a run that "
                    "starts from it, or copy the folder under another name first."
                )
        with run.in_use():
            run.resize()

    def claim(self) -> RunFolder:
        """Open the run folder, which is made if it is not there."""
        return claim_folder(self._settings, self._contents)

    def _preparation(self, run: RunFolder) -> Preparation:
        preparation = Preparation(run.path / PREPARATION, run.name)
        if self.done is not None and not preparation.entries:
            raise RunError(
                f"{run.path} holds a checkpoint but no {PREPARATION} that says what the run asked of its solver before: "
                "restore that, or delete the folder to start afresh."
            )
        return preparation

    def first_steps(self, first_steps: FirstSteps) -> Array | None:
        """Return the solver's step from every frame; None if frames lie on disk, and every rollout takes its own."""
        run, start = self._settings.run, self._settings.start
        return first_steps.collect(run, self.claim, other_runs(run, start), fresh=self.done is None)

    def measure(self, find: Callable[[], ActiveSet]) -> ActiveSet:
        """Find the active coordinates, whose seconds are recorded with them."""
        begun = time.perf_counter()
        active = find()
        self._elsewhere += time.perf_counter() - begun
        return active

    def finish(self) -> tuple[float, float]:
        """Note what all this took: seconds of this start, and of all starts so far."""
        run = self.claim()
        preparation = self._preparation(run)
        if not self.finished:
            elsewhere = self._elsewhere + preparation.seconds - self._before
            rest = max(0.0, time.perf_counter() - self._started - elsewhere)
            with run.in_use():
                preparation.add(Entry("getting ready", self.checking, rest))
        return preparation.seconds - self._before, preparation.seconds


def claim_folder(settings: TrainSettings, contents: Mapping[str, str] | None = None) -> RunFolder:
    """Open the run folder of settings, which is made if it is not there, and trust what the settings name.

    Args:
        settings: Settings of the run.
        contents: Digests of the data that the settings name; None if nothing is trained on them.
    """
    parts = {"solver": settings.solver, "network": settings.network, "coupling": settings.coupling}
    parts |= function_part(settings.train_data)
    trust_parts(parts)  # whoever trains a run may evaluate it
    free = ("workers", "on_failure", "checkpoint_every", "tensorboard", "data_may_differ")
    # left out, as in runs of earlier versions, where nothing is held back, or the last simulations are
    validation = dict.fromkeys(("held_back_simulations", "validation_data", "validate_every", "validate_steps"))
    named = {"loss": {"name": ROLLOUT, "args": {}}, "coupling": {"name": AFTER, "args": {}}, "train_params": {}}
    absent: dict[str, Any] = {"held_back": 0, **validation, "stages": [], **named}
    recorded = {key: value for key, value in settings_to_dict(settings).items() if key not in absent or value != absent[key]}
    return RunFolder(settings.run, _with_unused(recorded, settings), free, contents, may_grow=True)


def _with_unused(recorded: dict[str, Any], settings: TrainSettings) -> dict[str, Any]:
    """Return settings with the product that the folder was made with where none is used: its default is another one since."""
    if settings.stages or settings.method == "SolverLayer" or not (settings.run / CONFIG).exists():
        return recorded
    return recorded | {"vjp": read_settings(settings.run).get("vjp", recorded["vjp"])}
