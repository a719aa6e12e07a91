"""Training: estimate a gradient, put it into `p.grad`, let torch's optimiser and scheduler do the rest.

Nothing is drawn from a generator that lives across steps: batches, masks and directions depend on the seed and the number
of the step only. So a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from deepzero_sim.common.types import Mask, NamedTensors, is_integer, is_number
from deepzero_sim.errors import ConfigError, DivergedError, MissingExtraError, RunError, SolverError
from deepzero_sim.estimators import Estimator, GradientEstimate
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.ledger import Ledger
from deepzero_sim.oracle.queries import trainable
from deepzero_sim.solver.failure_policy import Incident, account_of, count_failures, located
from deepzero_sim.training.checkpoint_file import Checkpoint, storable_copies
from deepzero_sim.training.checkpoint_schedule import CheckpointSchedule
from deepzero_sim.training.run_folder import ANSWERS, RunFolder

#: Training steps that may be skipped one after the other, because solver steps fail that all queries share.
MOST_SKIPPED = 10


@dataclass(frozen=True)
class Progress:
    """Where training is.

    Args:
        step: training steps done.
        loss: of the last batch, before its step.
        queries: losses asked for so far.
        solver_steps: states advanced by one step so far.
        seconds: spent so far.
        failures: of solver steps so far, by kind and what was done, such as `{"timeout dropped": 3}`.
    """

    step: int = 0
    loss: float = float("nan")
    queries: int = 0
    solver_steps: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)


class _EventFile:
    """Numbers for TensorBoard. Its own writer works in a thread, where a full disk is an error that nobody can catch.

    Args:
        path: the folder.
        step: training steps done; what an earlier file says of later ones does not count.
    """

    def __init__(self, path: Path, step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415 - optional, and slow to import
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # TensorBoard reads the files of a folder in the order of their names
        self._records = RecordWriter((path / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add(self, numbers: dict[str, float], step: int) -> None:
        """Write numbers of a training step."""
        values = [self._summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        self._write(step=step, summary=self._summary(value=values))
        self._records.flush()

    def close(self) -> None:
        """End the file."""
        self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


class Trainer:
    """Trains an oracle's network.

    Args:
        oracle: whose loss.
        estimator: of its gradient.
        optimiser: any of `torch.optim`, over the oracle's network. `torch.optim.SparseAdam` gets sparse gradients: it then
            keeps its moments only where a coordinate was measured, where Adam would go on moving the others.
        scheduler: any of `torch.optim.lr_scheduler`, stepped after every training step; None for none.
        batches: the batch of a training step, by its number.
        mask: the active coordinates of a training step; None for all of them.
        run: where metrics and checkpoints go.
        seed: of the estimator's random directions.
        checkpoint_every: training steps between checkpoints; fewer where they take long.
    """

    def __init__(
        self,
        oracle: Oracle,
        estimator: Estimator,
        optimiser: torch.optim.Optimizer,
        batches: Callable[[int], Any],
        run: RunFolder,
        *,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        mask: Callable[[torch.nn.Module, int], Mask | None] | None = None,
        seed: int = 0,
        checkpoint_every: int = 50,
    ) -> None:
        if checkpoint_every < 1:
            raise ConfigError(f"checkpoint_every must be a positive number of training steps, not {checkpoint_every}.")
        if isinstance(optimiser, torch.optim.LBFGS):
            raise ConfigError("LBFGS asks for losses of its own, which no estimator answers: choose another optimiser.")
        self.oracle = oracle
        self.estimator = estimator
        self.optimiser = optimiser
        self.batches = batches
        self.run = run
        self.scheduler = scheduler
        self.mask = mask
        self.seed = seed
        self.checkpoint_every = checkpoint_every
        self._skipped = 0  # training steps up to now, one after the other

    def train(
        self,
        steps: int,
        report: Callable[[Progress], None] = lambda progress: None,
        *,
        tensorboard: bool = True,
        spent: Progress = Progress(),
        resumption_seconds: float = 0.0,
        incidents: Sequence[Incident] = (),
        keep: Collection[int] = (),
    ) -> Progress:
        """Train up to training step number `steps`, from the last checkpoint if there is one.

        Args:
            steps: training steps in all.
            report: called after every step.
            tensorboard: whether to write TensorBoard events too.
            spent: queries, solver steps and seconds of what went before the first training step, counted with all others.
            resumption_seconds: what it took to get ready to go on, counted if the run does.
            keep: training steps after which the checkpoint is kept for good, as one of the run's snapshots.

        Raises:
            DivergedError: a loss or gradient is not finite.
            SolverError: the solver failed, and the failure policy ends the run; what was trained is kept.
            KeyboardInterrupt: likewise.
            RunError: another process trains in the run folder.
            MissingExtraError: TensorBoard is wanted and not installed.
        """
        with self.run.in_use():
            progress = self._resume()
            require_within(progress, steps, self.run.path)
            if progress.step == steps:
                return progress
            begun = replace(progress, seconds=progress.seconds + resumption_seconds) if progress.step else spent
            return self._train(begun, steps, report, tensorboard, incidents, keep)

    def _train(
        self,
        progress: Progress,
        steps: int,
        report: Callable[[Progress], None],
        tensorboard: bool,
        incidents: Sequence[Incident],
        keep: Collection[int],
    ) -> Progress:
        events = _open_events(self.run.path, progress.step) if tensorboard else None
        ledger = Ledger(self.run.path / ANSWERS, self.run.name)
        checkpoints = CheckpointSchedule(self.run, lambda: self._checkpoint(progress), self.checkpoint_every)
        try:
            # explicit, because torch warns of leaving it open; our sparse gradients are sorted and in range by construction
            exact = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
            with single_threaded(), exact, checkpoints:
                for step in range(progress.step, steps):
                    ledger.at(step)
                    try:
                        progress = self._step(step, progress, ledger, incidents)
                    except SolverError as error:  # the network is as the last training step left it: that is not lost
                        if progress.step and not error.diverged:
                            checkpoints.write()
                        raise
                    incidents = ()
                    self._log(progress, events)
                    report(progress)
                    if progress.step in keep:  # before the checkpoint to go on from, so that a run beyond it has it
                        self.run.save_snapshot(self._checkpoint(progress), progress.step)
                    checkpoints.after_step(progress.step, last=progress.step == steps)
            ledger.forget()
        finally:
            if events is not None:
                events.close()
        return progress

    def _step(self, step: int, before: Progress, ledger: Ledger, incidents: Sequence[Incident]) -> Progress:
        started = time.perf_counter()
        mask = None if self.mask is None else self.mask(self.oracle.model, step)
        seed = self.seed * 1_000_003 + step
        with torch.random.fork_rng(devices=[]):  # what a network draws itself, such as dropout, depends on the step too
            torch.manual_seed(seed)
            estimate = self._estimate(step, mask, seed, ledger, incidents)
        self._fill(estimate, mask)
        self._update(estimate.loss)
        happened = (*incidents, *estimate.incidents)
        self.run.append_failures(step + 1, happened)
        return Progress(
            step=step + 1,
            loss=estimate.loss,
            queries=before.queries + estimate.queries,
            solver_steps=before.solver_steps + estimate.solver_steps,
            seconds=before.seconds + time.perf_counter() - started,
            failures=count_failures(happened, before.failures),
        )

    def _estimate(
        self, step: int, mask: Mask | None, seed: int, ledger: Ledger, incidents: Sequence[Incident]
    ) -> GradientEstimate:
        """Estimate the gradient of a training step; empty if what its queries share failed and the policy goes on."""
        batch = self.batches(step)
        resuming = {"ledger": ledger} if self.estimator.resumable else {}
        try:
            estimate = self.estimator.estimate(self.oracle, batch, mask=mask, seed=seed, **resuming)
        except SolverError as error:
            goes_on = self.oracle.on_failure.response(error).drop and self._skipped < MOST_SKIPPED
            account = account_of(error).with_incident(error, "skipped" if goes_on else "aborted")
            if not goes_on:
                self.run.append_failures(step + 1, (*incidents, *account.incidents))
                raise located(error, f"{self._skipped} training steps before were skipped" if self._skipped else "") from None
            self._skipped += 1
            return GradientEstimate({}, float("nan"), 0, account.steps, incidents=account.incidents)
        self._skipped = 0
        return estimate

    def _update(self, loss: float) -> None:
        try:
            self.optimiser.step()
            self._step_scheduler(loss)
        except Exception as error:
            raise ConfigError(
                f"{type(self.optimiser).__name__} or its scheduler raised {type(error).__name__} ({error}): check their args."
            ) from error

    def _step_scheduler(self, loss: float) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if isfinite(loss):  # of a training step that was skipped it is not known
                self.scheduler.step(loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def _fill(self, estimate: GradientEstimate, mask: Mask | None) -> None:
        """Put the gradient where optimisers look for it."""
        sparse = isinstance(self.optimiser, torch.optim.SparseAdam)
        for name, parameter in trainable(self.oracle.model).items():
            if not estimate.grads:  # the training step is skipped
                parameter.grad = None
                continue
            grad = estimate.grads[name]
            if not bool(torch.isfinite(grad).all()):
                raise DivergedError(
                    f"the gradient of {name!r} is not finite: start again with a smaller learning rate or another step size."
                )
            if not sparse:
                parameter.grad = grad
            elif mask is None or name in mask:
                active = torch.ones_like(grad, dtype=torch.bool) if mask is None else mask[name].to(grad.device)
                parameter.grad = torch.sparse_coo_tensor(active.nonzero().T, grad[active], grad.shape, is_coalesced=True)
            else:
                parameter.grad = None

    def _log(self, progress: Progress, events: _EventFile | None) -> None:
        metrics = asdict(progress)
        rate = float(self.optimiser.param_groups[0]["lr"])
        loss = progress.loss if isfinite(progress.loss) else None  # JSON has no NaN
        self.run.append_metrics({**metrics, "loss": loss, "learning_rate": rate})
        if events is not None:
            step, failures = metrics.pop("step"), metrics.pop("failures")
            events.add({**metrics, **failures, "learning_rate": rate}, step)

    def _checkpoint(self, progress: Progress) -> Checkpoint:
        optimiser = self.optimiser.state_dict()
        tensors = {f"network.{name}": tensor for name, tensor in self.oracle.model.state_dict().items()}
        tensors |= {f"oracle.{name}": tensor for name, tensor in self.oracle.state_dict().items()}
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in optimiser["state"].items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimiser.{index}.{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        state = {
            "progress": asdict(progress),
            "optimiser": _plain({"param_groups": optimiser["param_groups"], "scalars": scalars}),
            "scheduler": None if self.scheduler is None else _plain(self.scheduler.state_dict()),
        }
        return Checkpoint(storable_copies(tensors), state)

    def _resume(self) -> Progress:
        checkpoint = self.run.load()
        if checkpoint is None:
            self.run.drop_metrics_after(0)
            return Progress()
        self.run.rewrite_state(checkpoint)
        restore_network(self.oracle.model, checkpoint, self.run.path)
        self.oracle.load_state_dict(tensors_of("oracle", checkpoint))
        try:
            progress = self._restore_state(checkpoint)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(
                f"the checkpoint in {self.run.path} is of another optimiser or scheduler, or damaged "
                f"({type(error).__name__}: {error}): use those it was trained with, or restore it."
            ) from error
        self.run.drop_metrics_after(progress.step)
        return progress

    def _restore_state(self, checkpoint: Checkpoint) -> Progress:
        """Everything of a checkpoint but the network."""
        state: dict[int, dict[str, Any]] = {int(i): dict(s) for i, s in checkpoint.state["optimiser"]["scalars"].items()}
        for name, tensor in tensors_of("optimiser", checkpoint).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": checkpoint.state["optimiser"]["param_groups"]})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(_with_whole_keys(checkpoint.state["scheduler"]))
        return progress_of(checkpoint, self.run.path)


def progress_of(checkpoint: Checkpoint, path: Path) -> Progress:
    """Where the training was that left a checkpoint.

    Raises:
        RunError: it does not say.
    """
    try:
        return _checked(Progress(**checkpoint.state["progress"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the checkpoint in {path} does not say how far it is ({error}): restore it, or train anew.") from error


def require_within(progress: Progress, steps: int, path: Path) -> None:
    """Hold what a checkpoint says was done to what a run has to do.

    Raises:
        RunError: it is more.
    """
    if progress.step > steps:
        raise RunError(
            f"the checkpoint in {path} says that {progress.step} training steps were done, but the run has {steps}: restore "
            "it, delete it to train anew, or train that many."
        )


def _checked(progress: Progress) -> Progress:
    """Hold what a file says to what there can be.

    Raises:
        ValueError: it cannot be.
    """
    counts = {name: getattr(progress, name) for name in ("step", "queries", "solver_steps")}
    if not isinstance(progress.failures, dict):
        raise ValueError(f"failures cannot be {progress.failures!r}")  # noqa: TRY004 - of a kind with the others
    for name, count in {**counts, **progress.failures}.items():
        if not is_integer(count) or count < 0:
            raise ValueError(f"{name} cannot be {count!r}")
    if not is_number(progress.seconds) or not 0 <= progress.seconds < float("inf"):
        raise ValueError(f"seconds cannot be {progress.seconds!r}")
    if not is_number(progress.loss):
        raise ValueError(f"the loss cannot be {progress.loss!r}")
    return progress


def tensors_of(part: str, checkpoint: Checkpoint) -> NamedTensors:
    """The tensors of the network, the optimiser or the oracle, by their names there."""
    return {name.removeprefix(f"{part}."): t for name, t in checkpoint.tensors.items() if name.startswith(f"{part}.")}


def restore_network(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Load a checkpoint's network.

    Raises:
        RunError: it is another network's.
    """
    tensors = tensors_of("network", checkpoint)
    expected = {name: t.shape for name, t in model.state_dict().items()}
    if {name: t.shape for name, t in tensors.items()} != expected:
        raise RunError(
            f"the checkpoint in {path} holds another network ({len(tensors)} tensors, expected {len(expected)} "
            "of certain shapes): use the solver and network settings it was trained with."
        )
    model.load_state_dict(tensors)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's or optimiser's settings, which a checkpoint keeps as JSON."""
    try:
        json.dumps(state)
    except TypeError as error:
        raise ConfigError(
            f"the optimiser and scheduler must have settings that JSON can hold ({error}): choose others."
        ) from error
    return state


def _with_whole_keys(state: dict[str, Any]) -> dict[Any, Any]:
    """Undo JSON's making text of whole numbers that are keys, such as the milestones of `MultiStepLR`."""
    return {
        int(key) if key.isdecimal() else key: _with_whole_keys(value) if isinstance(value, dict) else value
        for key, value in state.items()
    }


def _open_events(path: Path, step: int) -> _EventFile:
    try:
        return _EventFile(path, step)
    except ImportError as error:
        raise MissingExtraError("writing TensorBoard events (tensorboard: true)", "tensorboard", "report") from error
