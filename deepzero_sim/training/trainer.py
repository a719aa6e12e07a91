"""Training: estimate a gradient, put it into `p.grad`, let torch's optimiser and scheduler do the rest.

Nothing is drawn from a generator that lives across steps: batches, masks and directions depend on the seed and the number
of the step only. So a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from math import isfinite
from typing import Any

import torch

from deepzero_sim.common.arguments import keywords
from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Mask
from deepzero_sim.errors import ConfigError, DivergedError, RunError, SolverError
from deepzero_sim.estimators import Estimator, GradientEstimate
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.ledger import Ledger
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.failure_policy import Incident, account_of, count_failures, with_place
from deepzero_sim.training.checkpoints import Checkpoint, CheckpointSchedule, storable_copies
from deepzero_sim.training.progress import AT_START, Progress, progress_of, require_within, restore_network, tensors_of
from deepzero_sim.training.run_folder import ANSWERS, VALIDATION, RunFolder
from deepzero_sim.training.schedules import fast_forward
from deepzero_sim.training.tensorboard import EventFile
from deepzero_sim.training.validation import Validation
from deepzero_sim.training.validation_record import line_of

#: Training steps that may be skipped one after the other, because solver steps fail that all queries share.
MOST_SKIPPED = 10


class Trainer:
    """Trains an oracle's network.

    Args:
        oracle: Oracle whose network is trained on its loss.
        estimator: Estimator of the loss's gradient.
        optimiser: Any optimiser of `torch.optim`, over the oracle's network. `torch.optim.SparseAdam` gets sparse gradients: it
            then keeps its moments only where a coordinate was measured, where Adam would go on moving the others.
        batches: Function from the number of a training step to its batch.
        run: Run folder for metrics and checkpoints.
        scheduler: Any scheduler of `torch.optim.lr_scheduler`, stepped after every training step; None for none.
        mask: Function from the network and the number of a training step to its active coordinates; None for all of them.
        seed: Seed of the estimator's random directions.
        checkpoint_every: Number of training steps between checkpoints; fewer where they take long.
        validation: Validation of the network on rollouts of its own; None for none.
        schedule_length: Number of training steps that the scheduler was made for; None if it does not depend on it.
    """

    def __init__(  # noqa: PLR0913 - the parts of a training
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
        validation: Validation | None = None,
        schedule_length: int | None = None,
    ) -> None:
        require(checkpoint_every >= 1, "checkpoint_every must be a positive number of training steps", checkpoint_every)
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
        self.validation = validation
        self.schedule_length = schedule_length
        self._skipped = 0  # training steps up to now, one after the other

    def train(
        self,
        steps: int,
        report: Callable[[Progress], None] = lambda progress: None,
        *,
        tensorboard: bool = True,
        spent: Progress = AT_START,
        resumption_seconds: float = 0.0,
        incidents: Sequence[Incident] = (),
        keep: Collection[int] = (),
    ) -> Progress:
        """Train up to training step number `steps`, from the last checkpoint if there is one.

        Args:
            steps: Number of training steps in all.
            report: Function called after every step.
            tensorboard: True to write TensorBoard events too.
            spent: Cost of what went before the first training step, counted with all others.
            resumption_seconds: Seconds that it took to get ready to go on, counted if the run does.
            incidents: Failures before the first training step of this start, counted with it.
            keep: Numbers of training steps after which the checkpoint is kept for good, as one of the run's snapshots.

        Raises:
            DivergedError: A loss or gradient is not finite.
            SolverError: The solver failed, and the failure policy ends the run; what was trained is kept.
            KeyboardInterrupt: Ctrl-C came; what was trained is kept.
            RunError: Another process trains in the run folder.
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
        events = EventFile(self.run.path, progress.step) if tensorboard else None
        ledger = Ledger(self.run.path / ANSWERS, self.run.name)
        checkpoints = CheckpointSchedule(self.run.save, lambda: self._checkpoint(progress), self.checkpoint_every)
        try:
            # explicit, because torch warns of leaving it open; our sparse gradients are sorted and in range by construction
            exact = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
            with single_threaded(), exact, checkpoints:
                progress = self._validate(progress, steps)  # the network that it begins with
                for step in range(progress.step, steps):
                    ledger.at(step)
                    try:
                        progress = self._step(step, progress, ledger, incidents)
                        progress = self._validate(progress, steps)
                    except SolverError as error:  # the network is as the last training step left it: that is not lost
                        if progress.step and not error.diverged:
                            checkpoints.write()
                        raise
                    incidents = ()
                    self._log(progress, events, steps)
                    report(progress)
                    if progress.step in keep:  # before the checkpoint to go on from, so that a run beyond it has it
                        self.run.save_snapshot(self._checkpoint(progress), progress.step)
                    checkpoints.after_step(progress.step, last=progress.step == steps)
            ledger.delete()
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
        watched = 0 if self.validation is None else self.validation.watch(step + 1, estimate.loss, lambda: self.batches(step))
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
            validation_steps=before.validation_steps + watched,
        )

    def _validate(self, progress: Progress, steps: int) -> Progress:
        """Measure the network if that is due, and log it."""
        if self.validation is None or not self.validation.is_due(progress.step, steps):
            return progress
        started = time.perf_counter()
        found = self.validation.measure(self.oracle.model, progress.step)
        self.run.append_metrics(line_of(found), VALIDATION)
        return replace(
            progress,
            seconds=progress.seconds + time.perf_counter() - started,
            failures=dict(sorted((Counter(progress.failures) + Counter(found.failures)).items())),
            validation_steps=progress.validation_steps + found.solver_steps,
        )

    def _estimate(
        self, step: int, mask: Mask | None, seed: int, ledger: Ledger, incidents: Sequence[Incident]
    ) -> GradientEstimate:
        """Estimate the gradient of a training step; empty if what its queries share failed and the policy goes on."""
        batch = self.batches(step)
        # an estimator of a user's own need not know of ledgers
        resuming = {"ledger": ledger} if "ledger" in keywords(self.estimator.estimate) else {}
        try:
            estimate = self.estimator.estimate(self.oracle, batch, mask=mask, seed=seed, **resuming)
        except SolverError as error:
            goes_on = self.oracle.on_failure.response(error).drop and self._skipped < MOST_SKIPPED
            account = account_of(error).with_incident(error, "skipped" if goes_on else "aborted")
            if not goes_on:
                self.run.append_failures(step + 1, (*incidents, *account.incidents))
                where = f"{self._skipped} training steps before were skipped" if self._skipped else ""
                raise with_place(error, where) from None
            self._skipped += 1
            return GradientEstimate({}, float("nan"), 0, account.steps, incidents=account.incidents)
        self._skipped = 0 if estimate.grads else self._skipped + 1
        if self._skipped > MOST_SKIPPED:
            self.run.append_failures(step + 1, (*incidents, *estimate.incidents))
            raise SolverError(
                f"queries failed in all of the last {self._skipped} training steps, so that nothing was updated: mend the "
                "solver, or take a smaller step size or spread."
            )
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

    def _log(self, progress: Progress, events: EventFile | None, steps: int) -> None:
        metrics = asdict(progress)
        rate = float(self.optimiser.param_groups[0]["lr"])
        loss = progress.loss if isfinite(progress.loss) else None  # JSON has no NaN
        warnings = self._warnings_at(progress.step, steps)
        self.run.append_metrics({**metrics, "loss": loss, "learning_rate": rate, **self.oracle.metrics(), **warnings})
        if events is not None:
            step, failures = metrics.pop("step"), metrics.pop("failures")
            events.add({**metrics, **failures, "learning_rate": rate}, step)

    def _warnings_at(self, step: int, steps: int) -> dict[str, list[str]]:
        """Return the warnings that belong to the line of a training step, if there are any."""
        if self.validation is None:
            return {}
        leap, found = self.validation.record.leap, []
        if step == steps:
            found = self.validation.record.warnings(step)
        elif leap is not None and leap.step == step:
            found = [leap.sentence]
        return {"warnings": found} if found else {}

    def _checkpoint(self, progress: Progress) -> Checkpoint:
        optimiser = self.optimiser.state_dict()
        tensors = {f"network.{name}": tensor for name, tensor in self.oracle.model.state_dict().items()}
        tensors |= {f"oracle.{name}": tensor for name, tensor in self.oracle.state_dict().items()}
        tensors |= {f"estimator.{name}": tensor for name, tensor in self.estimator.state_dict().items()}
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in optimiser["state"].items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimiser.{index}.{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        state: dict[str, Any] = {
            "progress": asdict(progress),
            "optimiser": _require_json({"param_groups": optimiser["param_groups"], "scalars": scalars}),
            "scheduler": None if self.scheduler is None else _require_json(self.scheduler.state_dict()),
        }
        if self.schedule_length is not None:
            state["schedule_length"] = self.schedule_length
        if self.validation is not None:
            state["validation"] = self.validation.state_dict()
            tensors |= self.validation.tensors()
        return Checkpoint(storable_copies(tensors), state)

    def _resume(self) -> Progress:
        checkpoint = self.run.load()
        if checkpoint is None:
            self.run.drop_metrics_after(0)
            return AT_START
        self.run.rewrite_state(checkpoint)
        restore_network(self.oracle.model, checkpoint, self.run.path)
        self.oracle.load_state_dict(tensors_of("oracle", checkpoint))
        self.estimator.load_state_dict(tensors_of("estimator", checkpoint))
        try:
            progress = self._restore_state(checkpoint)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(
                f"the checkpoint in {self.run.path} is of another optimiser or scheduler, or damaged "
                f"({type(error).__name__}: {error}): use those it was trained with, or restore it."
            ) from error
        self.run.drop_metrics_after(progress.step)
        if self.validation is not None:
            self.validation.load(checkpoint, self.run.path)
            self.run.rewrite_metrics([line_of(one) for one in self.validation.record.measurements], VALIDATION)
        return progress

    def _restore_state(self, checkpoint: Checkpoint) -> Progress:
        """Restore everything of a checkpoint but the network."""
        state: dict[int, dict[str, Any]] = {int(i): dict(s) for i, s in checkpoint.state["optimiser"]["scalars"].items()}
        for name, tensor in tensors_of("optimiser", checkpoint).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        progress, groups = progress_of(checkpoint, self.run.path), checkpoint.state["optimiser"]["param_groups"]
        made_for = checkpoint.state.get("schedule_length", self.run.first_updates)
        longer = self.schedule_length is not None and made_for is not None and made_for != self.schedule_length
        if self.scheduler is not None and longer:  # as it would be now, had it been made for this length from the beginning
            groups = [before | now for before, now in zip(groups, fast_forward(self.scheduler, progress.step), strict=True)]
        elif self.scheduler is not None:
            self.scheduler.load_state_dict(_restore_integer_keys(checkpoint.state["scheduler"]))
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        return progress


def _require_json(state: dict[str, Any]) -> dict[str, Any]:
    """Refuse settings of a scheduler or optimiser that a checkpoint cannot keep as JSON."""
    try:
        json.dumps(state)
    except TypeError as error:
        raise ConfigError(
            f"the optimiser and scheduler must have settings that JSON can hold ({error}): choose others."
        ) from error
    return state


def _restore_integer_keys(state: dict[str, Any]) -> dict[Any, Any]:
    """Undo JSON's making text of whole numbers that are keys, such as the milestones of `MultiStepLR`."""
    return {
        int(key) if key.isdecimal() else key: _restore_integer_keys(value) if isinstance(value, dict) else value
        for key, value in state.items()
    }
