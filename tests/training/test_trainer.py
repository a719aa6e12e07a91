"""Training: repeatable bit for bit, with any optimiser, and resumed as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import POINTS, Burgers, Network, burgers_oracle, conv_corrector, initial_states, mse, snapshot, wait_until
from torch import nn
from training_cases import (
    assert_same_tensors,
    config_file,
    line_data,
    lines,
    start,
    tensors,
    train_settings,
    unfinished,
    without_seconds,
)

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Mask
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, DeepZeroError, DivergedError, MissingExtraError, RunError
from deepzero_sim.estimators import CGE, RGE, BackPropagation, Estimator
from deepzero_sim.estimators.sparsity import RandomMask
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.contract import as_solver
from deepzero_sim.training.checkpoints import CHECKPOINT, load_checkpoint
from deepzero_sim.training.checkpoints import snapshot as snapshot_of
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.runs.settings import TrainSettings, Workers
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.trainer import Trainer

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "SparseAdam": lambda p: torch.optim.SparseAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}

Scheduler = torch.optim.lr_scheduler
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: Scheduler.CosineAnnealingLR(o, T_max=6),
    "steps": lambda o: Scheduler.StepLR(o, step_size=2),
    "milestones": lambda o: Scheduler.MultiStepLR(o, milestones=[2, 4, 4], gamma=0.5),
    "one cycle": lambda o: Scheduler.OneCycleLR(o, max_lr=0.1, total_steps=6),
    "exponential": lambda o: Scheduler.ExponentialLR(o, 0.8),
    "warm-up": lambda o: Scheduler.LinearLR(o, total_iters=4),
    "plateau": lambda o: Scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
}


def batch(step: int) -> tuple[Any, ...]:
    references = 0.1 * np.random.default_rng(step).normal(size=(2, 3, 1, POINTS))
    return initial_states(2, seed=step), None, references


def trainer(
    run: Path,
    optimiser: str = "Adam",
    estimator: Estimator | None = None,
    scheduler: str | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Trainer:
    torch.manual_seed(3)
    oracle, _ = burgers_oracle(executor=executor)
    chosen = OPTIMISERS[optimiser](oracle.model.parameters())
    return Trainer(
        oracle,
        estimator or CGE(1e-4, "forward"),
        chosen,
        batch,
        RunFolder(run, {}),
        scheduler=None if scheduler is None else SCHEDULERS[scheduler](chosen),
        **options,
    )


def go(trainer: Trainer, steps: int) -> Progress:
    return trainer.train(steps, tensorboard=False)


def assert_same_runs(a: Path, b: Path) -> None:
    assert_same_tensors(tensors(a), tensors(b))
    assert without_seconds(load_checkpoint(a).state) == without_seconds(load_checkpoint(b).state)
    assert without_seconds(RunFolder(a, {}).metrics()) == without_seconds(RunFolder(b, {}).metrics())


def assert_resumes(tmp_path: Path, **options: Any) -> None:
    go(trainer(tmp_path / "whole", **options), 6)
    go(trainer(tmp_path / "halves", **options), 3)
    go(trainer(tmp_path / "halves", **options), 6)
    assert_same_runs(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_any_optimiser_trains_and_resumes(tmp_path: Path, optimiser: str) -> None:
    assert_resumes(tmp_path, optimiser=optimiser, mask=RandomMask(0.5))
    metrics = RunFolder(tmp_path / "whole", {}).metrics()
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6] and metrics[-1]["loss"] < metrics[0]["loss"] * 1.5


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_any_scheduler_trains_and_resumes(tmp_path: Path, scheduler: str) -> None:
    assert_resumes(tmp_path, scheduler=scheduler)
    rates = [line["learning_rate"] for line in RunFolder(tmp_path / "whole", {}).metrics()]
    assert len(set(rates)) > 1


@pytest.mark.parametrize("estimator", [RGE(1e-4, 5), CGE(1e-4, "central"), BackPropagation()], ids=lambda e: type(e).__name__)
def test_any_estimator_trains_and_resumes(tmp_path: Path, estimator: Estimator) -> None:
    assert_resumes(tmp_path, estimator=estimator, seed=4)


class Noting(CGE):
    """CGE as a user's own class, which knows nothing of ledgers."""

    def estimate(self, oracle: dz.Oracle, batch: Any, mask: Mask | None = None, seed: int = 0) -> dz.GradientEstimate:
        return super().estimate(oracle, batch, mask, seed)


def test_an_estimator_of_ones_own_need_not_know_of_ledgers(tmp_path: Path) -> None:
    go(trainer(tmp_path / "own", estimator=Noting(1e-4, "forward")), 2)
    go(trainer(tmp_path / "ours"), 2)
    assert_same_runs(tmp_path / "own", tmp_path / "ours")


def test_two_runs_are_the_same_and_another_seed_is_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        go(trainer(tmp_path / name, estimator=RGE(1e-4, 5), mask=RandomMask(0.5, seed=seed), seed=seed), 3)
    assert_same_runs(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(
        tensors(tmp_path / "a")["network.layers.0.weight"], tensors(tmp_path / "c")["network.layers.0.weight"]
    )


def test_workers_change_no_bit(tmp_path: Path, executors: dict[str, Executor]) -> None:
    for name in ("serial", "thread", "two processes"):
        go(trainer(tmp_path / name, "SparseAdam", executor=executors[name], mask=RandomMask(0.5)), 4)
        assert_same_runs(tmp_path / name, tmp_path / "serial")


def test_progress_counts_what_was_asked(tmp_path: Path) -> None:
    seen: list[Progress] = []
    ended = trainer(tmp_path / "run").train(3, seen.append, tensorboard=False)
    parameters = sum(p.numel() for p in conv_corrector().parameters())
    queries = parameters + 1
    assert [p.step for p in seen] == [1, 2, 3] and seen[-1] == ended
    assert [p.queries for p in seen] == [queries, 2 * queries, 3 * queries]
    first_step_of_batch, others = 2, 2 * 2 * queries  # batch of two, three steps of which the first is shared
    assert [p.solver_steps for p in seen] == [n * (first_step_of_batch + others) for n in (1, 2, 3)]
    assert 0 < seen[0].seconds < seen[1].seconds


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    ended = go(trainer(tmp_path / "run"), 3)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    seen: list[Progress] = []
    again = trainer(tmp_path / "run")
    assert again.train(3, seen.append) == ended and not seen
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before
    assert_same_tensors(
        snapshot(again.oracle.model), {k[8:]: v for k, v in tensors(tmp_path / "run").items() if "network" in k}
    )


def test_what_is_to_be_kept_is_kept_whole_and_the_same_when_resumed(tmp_path: Path) -> None:
    trainer(tmp_path / "a").train(5, tensorboard=False, keep=(2, 5))
    trainer(tmp_path / "b").train(3, tensorboard=False, keep=(2, 5))
    assert load_checkpoint(snapshot_of(tmp_path / "b", 2)).state["progress"]["step"] == 2
    trainer(tmp_path / "b").train(5, tensorboard=False, keep=(2, 5))
    for step in (2, 5):
        kept = [load_checkpoint(snapshot_of(tmp_path / name, step)) for name in ("a", "b")]
        assert_same_tensors(kept[0].tensors, kept[1].tensors)
        assert without_seconds(kept[0].state) == without_seconds(kept[1].state)
    assert_same_tensors(kept[0].tensors, tensors(tmp_path / "a"))
    assert sorted(path.name for path in (tmp_path / "a" / "snapshots").iterdir()) == ["000002", "000005"]
    go(trainer(tmp_path / "two"), 2)
    assert_same_tensors(load_checkpoint(snapshot_of(tmp_path / "a", 2)).tensors, tensors(tmp_path / "two"))


def test_the_gradient_is_in_grad(tmp_path: Path) -> None:
    this = trainer(tmp_path / "run", "SGD")
    estimate = this.estimator.estimate(this.oracle, batch(0))
    before = snapshot(this.oracle.model)
    go(this, 1)
    for name, parameter in trainable(this.oracle.model).items():
        assert parameter.grad is not None and torch.equal(parameter.grad, estimate.grads[name])
        assert torch.allclose(parameter, before[name] - 0.05 * estimate.grads[name])


def some(model: torch.nn.Module, step: int) -> Mask:
    weight = torch.zeros(3, 1, 3, dtype=torch.bool)
    weight[step % 3, 0, 1] = True
    return {"layers.0.weight": weight, "layers.2.bias": torch.zeros(1, dtype=torch.bool)}


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sparse_adam_moves_the_active_coordinates_only(tmp_path: Path, steps: int) -> None:
    this = trainer(tmp_path / "run", "SparseAdam", mask=some)
    before = snapshot(this.oracle.model)
    go(this, steps)
    moved = {name: (tensor != before[name]).sum().item() for name, tensor in snapshot(this.oracle.model).items()}
    assert moved == {"layers.0.weight": min(steps, 3), "layers.0.bias": 0, "layers.2.weight": 0, "layers.2.bias": 0}


def test_adam_goes_on_moving_what_it_moved(tmp_path: Path) -> None:
    this = trainer(tmp_path / "run", "Adam", mask=some)
    first = go(this, 1) and snapshot(this.oracle.model)
    go(this, 2)
    assert (snapshot(this.oracle.model)["layers.0.weight"] != first["layers.0.weight"]).sum() == 2


def test_without_a_mask_sparse_adam_is_adam(tmp_path: Path) -> None:
    go(trainer(tmp_path / "sparse", "SparseAdam"), 3)
    go(trainer(tmp_path / "dense", "Adam"), 3)
    for name, tensor in tensors(tmp_path / "sparse").items():
        if name.startswith("network"):
            assert torch.allclose(tensor, tensors(tmp_path / "dense")[name], rtol=1e-4)  # they differ in where epsilon stands


def test_training_that_diverges_ends_in_a_sentence_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    go(trainer(tmp_path / "run", checkpoint_every=2), 2)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    this = trainer(tmp_path / "run", checkpoint_every=50)
    this._resume = lambda: Progress(step=2)  # type: ignore[method-assign]
    this.optimiser = torch.optim.SGD(this.oracle.model.parameters(), lr=1e200)
    with np.errstate(all="ignore"), pytest.raises(DeepZeroError, match="finite"):
        go(this, 40)
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before and not unfinished(tmp_path)
    assert go(trainer(tmp_path / "run"), 3).step == 3


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    loop = SolverLoop(as_solver(lambda states: states, Burgers().spec), conv_corrector(), unroll=3)
    oracle = LoopOracle(loop, lambda outputs, targets: (outputs.mean() * 1e308) * 1e308)
    optimiser = torch.optim.Adam(oracle.model.parameters())
    with pytest.raises(DivergedError, match=r"the loss must be finite, got .*smaller learning rate"):
        go(Trainer(oracle, CGE(), optimiser, batch, RunFolder(tmp_path / "run", {})), 1)


def test_tensorboard_holds_every_step_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps in (2, 4):
        trainer(tmp_path / "run").train(steps)
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    assert {"loss", "queries", "solver_steps", "seconds", "learning_rate"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    losses = [line["loss"] for line in RunFolder(tmp_path / "run", {}).metrics()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses, rel=1e-6)


def test_without_tensorboard_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"tensorboard", *(name for name in sys.modules if name.startswith("tensorboard."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"tensorboard.*pip install 'deepzero-sim\[report\]'"):
        trainer(tmp_path / "run").train(2)
    assert go(trainer(tmp_path / "run"), 2).step == 2


def test_checkpoints_come_in_time(tmp_path: Path) -> None:
    saved: list[int] = []
    this = trainer(tmp_path / "run", checkpoint_every=3)
    this.run.save = lambda checkpoint: saved.append(checkpoint.state["progress"]["step"])  # type: ignore[method-assign]
    go(this, 7)
    assert saved == [3, 6, 7]
    with pytest.raises(ConfigError, match="checkpoint_every must be a positive number"):
        trainer(tmp_path / "run", checkpoint_every=0)


def test_what_was_spent_before_counts_and_counts_once(tmp_path: Path) -> None:
    spent = Progress(queries=7, solver_steps=100, seconds=50.0)
    without = go(trainer(tmp_path / "without"), 4)
    first = trainer(tmp_path / "with").train(2, tensorboard=False, spent=spent)
    both = trainer(tmp_path / "with").train(4, tensorboard=False, spent=spent)
    assert both.queries == without.queries + 7 and both.solver_steps == without.solver_steps + 100
    assert first.seconds > 50 and 50 < both.seconds < 100
    assert trainer(tmp_path / "with").run.metrics()[0]["queries"] == without.queries // 4 + 7


@pytest.mark.parametrize("optimiser", ["LBFGS"])
def test_an_optimiser_that_asks_for_losses_itself_is_refused(tmp_path: Path, optimiser: str) -> None:
    oracle, _ = burgers_oracle()
    with pytest.raises(ConfigError, match="LBFGS"):
        go(Trainer(oracle, CGE(), torch.optim.LBFGS(oracle.model.parameters()), batch, RunFolder(tmp_path / "run", {})), 1)


def test_a_setting_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    this = trainer(tmp_path / "run")
    this.optimiser.param_groups[0]["lr"] = torch.tensor(0.01)
    with pytest.raises(ConfigError, match="settings that JSON can hold"):
        go(this, 1)


# ---- runs of the command line, killed


def run_settings(folder: Path, **changes: Any) -> TrainSettings:
    return train_settings(folder / "run", line_data(folder / "line.h5"), **changes)


SPARSE_ADAM = Component("torch.optim.SparseAdam", {"lr": 0.01, "betas": [0.9, 0.99]})
ZO: dict[str, Any] = {"method": "ZO-SOL", "optimiser": SPARSE_ADAM, "sparsity": 0.5, "checkpoint_every": 7}
#: So small a tolerance that references are added all the time.
DRIFTING = Component("deepzero_sim.vjp.ReferenceJacobian", {"references": 2, "tolerance": 1e-9})
FIELD = Component("deepzero_sim.vjp.JacobianField", {"check_every": 4})
AUTO = Component("deepzero_sim.vjp.Auto", {"most_steps": 1000})
KILLED: dict[str, dict[str, Any]] = {
    "NON": {"method": "NON", "updates": 400, "checkpoint_every": 13},
    "SolverLayer": {"method": "SolverLayer", "updates": 150, "checkpoint_every": 13, "vjp": DRIFTING},
    "JacobianField": {"method": "SolverLayer", "updates": 150, "checkpoint_every": 13, "vjp": FIELD},
    "Auto": {"method": "SolverLayer", "updates": 150, "checkpoint_every": 13, "vjp": AUTO},
    "ZO-SOL": {**ZO, "updates": 45, "workers": Workers("process", 2)},
    "ZO-GraSP": {**ZO, "updates": 45, "layer_ratios": Component("zo-grasp", {"num_directions": 9}), "mask_refresh": 3},
    "RGE": {**ZO, "updates": 60, "estimator": Component("deepzero_sim.RGE", {"num_directions": 5}), "sparsity": 0.0},
}


def kill_at_some_moment(settings: TrainSettings, config: Path, after: int) -> None:
    process = start("train", "--config", config, cwd=config.parent)
    metrics = settings.run / "metrics.jsonl"
    assert wait_until(lambda: lines(metrics) >= after or process.poll() is not None, 120)
    while lines(metrics) < after + random.randint(0, 9) and process.poll() is None:  # noqa: S311 - any moment will do
        pass
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {errors}"


@pytest.mark.parametrize(
    "case",
    ["NON", *(pytest.param(case, marks=pytest.mark.slow) for case in KILLED if case != "NON")],
)
def test_killed_and_resumed_it_ends_the_same(tmp_path: Path, case: str) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    settings, whole = (run_settings(tmp_path / name, **KILLED[case]) for name in ("killed", "whole"))
    config = config_file(tmp_path / "killed" / "train.yaml", settings)
    for after in (9, 20) if case == "NON" else (20,):
        kill_at_some_moment(settings, config, after)
    resumed, undisturbed = train(settings), train(replace(whole, train_data=settings.train_data))
    assert without_seconds(vars(resumed)) == without_seconds(vars(undisturbed))
    assert_same_tensors(tensors(settings.run), tensors(whole.run))
    metrics = [without_seconds(RunFolder.metrics(_Any(run))) for run in (settings.run, whole.run)]
    assert metrics[0] == metrics[1] and len(metrics[0]) == settings.updates
    assert without_seconds(load_checkpoint(settings.run).state) == without_seconds(load_checkpoint(whole.run).state)
    assert not unfinished(tmp_path)


class _Any(RunFolder):
    """A run folder whatever its settings."""

    def __init__(self, path: Path) -> None:
        self.path = path


def test_other_settings_are_refused_and_other_workers_are_fine(tmp_path: Path) -> None:
    settings = run_settings(tmp_path, **ZO, updates=3)
    train(settings)
    before = (settings.run / CHECKPOINT).read_bytes()
    for key, value in {"seed": 1, "sparsity": 0.4, "unroll": 2, "method": "NON"}.items():
        with pytest.raises(RunError, match=f"holds a run with other settings .{key} is "):
            train(replace(settings, **{key: value}))
    train(replace(settings, workers=Workers("thread", 2), checkpoint_every=1, tensorboard=True))
    assert (settings.run / CHECKPOINT).read_bytes() == before


def test_a_damaged_checkpoint_is_not_trained_over(tmp_path: Path) -> None:
    settings = run_settings(tmp_path, method="NON")
    train(settings)
    (settings.run / CHECKPOINT).write_bytes(b"damaged" * 10)
    with pytest.raises(RunError, match="is not a checkpoint of this package"):
        train(settings)
    assert (settings.run / CHECKPOINT).read_bytes() == b"damaged" * 10


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    settings = run_settings(tmp_path, method="NON")
    train(settings)
    wider = replace(settings, run=tmp_path / "wider", network=Component("small", {"width": 4}))
    train(wider)
    (settings.run / CHECKPOINT).write_bytes((wider.run / CHECKPOINT).read_bytes())
    with pytest.raises(RunError, match="holds another network"):
        train(settings)


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    go(trainer(tmp_path / "run", "Adam"), 2)
    one = trainer(tmp_path / "run", "Adam")
    one.optimiser = torch.optim.Adam([{"params": [p]} for p in one.oracle.model.parameters()])
    with pytest.raises(RunError, match="optimiser"):
        go(one, 3)


def test_a_checkpoint_that_does_not_say_enough_is_refused(tmp_path: Path) -> None:
    go(trainer(tmp_path / "run", "Adam"), 2)
    run = trainer(tmp_path / "run", "Adam").run
    whole = load_checkpoint(run.path)
    for key in ("optimiser", "progress"):
        run.save(replace(whole, state={name: value for name, value in whole.state.items() if name != key}))
        with pytest.raises(RunError, match=r"the checkpoint in .*: .*restore it"):
            go(trainer(tmp_path / "run", "Adam"), 3)


def test_what_a_network_draws_depends_on_the_step_only(tmp_path: Path) -> None:
    """Dropout: a run in two parts draws what one in one piece does, and leaves torch's own numbers alone."""
    ended, inputs = [], torch.ones(4, 3, dtype=torch.float64)
    for name, parts in (("whole", (4,)), ("parts", (2, 4))):
        for steps in parts:
            torch.manual_seed(steps)
            model = Network(nn.Dropout(0.5), nn.Linear(3, 1)).double()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(0.5)
            oracle = ModelOracle(model, mse)
            optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
            run, before = RunFolder(tmp_path / name, {}), torch.get_rng_state()
            whole = Trainer(oracle, BackPropagation(), optimiser, lambda step: (inputs, inputs[:, :1]), run, checkpoint_every=2)
            whole.train(steps, tensorboard=False)
            assert torch.equal(before, torch.get_rng_state())
        ended.append(tensors(tmp_path / name))
    assert_same_tensors(*ended)
