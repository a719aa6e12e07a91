"""Queries whose solver steps fail: each is dropped by itself, and no other's answer changes by a bit."""

from __future__ import annotations

import json
import math
import os
import signal
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import POINTS, Burgers, conv_corrector, initial_states, mse
from training_cases import assert_same_tensors, line_data, train_settings

import deepzero_sim as dz
from deepzero_sim.cli.reports.rollouts import results
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.batches import UnrolledBatches, advance_frames, advance_frames_with_account
from deepzero_sim.datasets.trajectories import load
from deepzero_sim.estimators import CGE, RGE
from deepzero_sim.estimators.base import Estimator
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.queries import Coordinates, name_query
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.settings import Workers
from deepzero_sim.training.runs.training import _require_repeatable, train
from deepzero_sim.training.trainer import Trainer

BATCH, UNROLL, STEP = 2, 4, 0.3


class Limited(Burgers):
    """Burgers, failing on states beyond a limit.

    Args:
        limit: of what it takes.
        how: it fails.
        statewise: it says which state failed.
    """

    #: Of the limit, that the program takes on this machine.
    share = 1.0

    def __init__(self, limit: float = math.inf, how: str = "raise", statewise: bool = False) -> None:
        super().__init__()
        self.limit, self.how, self.statewise, self.home = limit * self.share, how, statewise, os.getpid()
        self.seen: list[float] = []

    def step(self, states: Array, params: Array | None = None) -> Array:
        sizes = np.abs(states).max(axis=(1, 2))
        self.seen += sizes.tolist()
        bad, advanced = np.flatnonzero(sizes > self.limit).tolist(), super().step(states, params)
        if not bad:
            return advanced
        if self.how == "nan":
            advanced[bad] = np.nan
            return advanced
        if self.how == "kill" and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        error = dz.ExitCodeError("it ended with exit status 3.")
        raise dz.StatesFailedError(dict.fromkeys(bad, error), advanced) if self.statewise else error


def oracle_of(solver: Burgers, on_failure: Any = "abort", executor: Executor | None = None, chunk: int = 16) -> LoopOracle:
    torch.manual_seed(0)
    loop = dz.SolverLoop(solver, conv_corrector(), UNROLL, on_failure=on_failure)
    return LoopOracle(loop, mse, executor, queries_per_chunk=chunk)


def batch() -> tuple[Any, ...]:
    return initial_states(BATCH), None, 0.1 * np.random.default_rng(1).normal(size=(BATCH, UNROLL, 1, POINTS))


def queries() -> list[Coordinates]:
    model = oracle_of(Burgers()).model
    return [
        Coordinates(name, tuple(i for i in range(p.numel()) for _ in "+-"), (STEP, -STEP) * p.numel())
        for name, p in model.named_parameters()
    ]


def undisturbed() -> tuple[torch.Tensor, torch.Tensor, float]:
    """What all queries answer, the largest number each gives to the solver, and that of the network as it is."""
    solver = Limited()
    oracle = oracle_of(solver, chunk=1)
    prepared = oracle.prepare(batch())
    base = max(solver.seen)
    solver.seen = []
    changes = oracle.ask(prepared, queries()).changes
    return changes, torch.tensor(solver.seen, dtype=torch.float64).view(len(changes), -1).amax(dim=1), base


CHANGES, LARGEST, BASE = undisturbed()

#: Between the largest number of some queries and those of all others, the network as it is among these.
LIMIT = float(LARGEST.sort().values[-6:-4].mean())
LOST = (LARGEST > LIMIT).nonzero().view(-1).tolist()


def test_the_limit_is_one_that_some_queries_exceed() -> None:
    assert (
        BASE < LIMIT and len(LOST) == 5 and len(CHANGES) == 2 * sum(p.numel() for p in oracle_of(Burgers()).model.parameters())
    )


@pytest.mark.parametrize(
    ("how", "statewise", "kind"),
    [("raise", True, "exit-code"), ("raise", False, "exit-code"), ("nan", False, "non-finite")],
)
@pytest.mark.parametrize("policy", ["drop", "retry(2), drop"])
@pytest.mark.parametrize("where", ["serial", "thread", "two processes"])
def test_failing_queries_are_dropped_and_the_others_are_the_same_bits(
    executors: dict[str, Executor], how: str, statewise: bool, kind: str, policy: str, where: str
) -> None:
    oracle = oracle_of(Limited(LIMIT, how, statewise), policy, executors[where])
    answers = oracle.ask(oracle.prepare(batch()), queries())
    assert list(answers.dropped) == LOST
    expected = CHANGES.clone()
    expected[LOST] = 0
    assert torch.equal(answers.changes, expected)
    dropped = [one for one in answers.incidents if one.action == "dropped"]
    assert len(dropped) == 5 and {one.kind for one in dropped} == {kind}
    assert len({one.query for one in dropped}) == 5 and all("layers." in one.query for one in dropped)
    retried = sum(one.action == "retried" for one in answers.incidents)
    assert (retried > 0) == (policy != "drop" and kind != "non-finite")


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_abort_names_the_first_query_that_failed(how: str) -> None:
    oracle = oracle_of(Limited(LIMIT, how))
    prepared = oracle.prepare(batch())
    flat = [(q, i) for q in queries() for i in range(len(q))]
    first = name_query(*flat[LOST[0]])
    with pytest.raises(dz.SolverError) as caught:
        oracle.ask(prepared, queries())
    assert str(caught.value).endswith(f", at {first}).") and "failure: " in str(caught.value)
    assert f"{LOST[0]}" and first.endswith((f"+ {STEP}", f"- {STEP}"))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["drop", "retry(1), drop"])
def test_a_query_that_kills_its_worker_is_dropped_alone(policy: str) -> None:
    with open_executor("process", 1) as executor:  # every death costs a start
        worst = int(LARGEST.argmax())
        oracle = oracle_of(Limited(float(LARGEST[worst]) - 1e-9, "kill"), policy, executor, chunk=2)
        answers = oracle.ask(oracle.prepare(batch()), queries())
    expected = CHANGES.clone()
    expected[worst] = 0
    assert list(answers.dropped) == [worst] and torch.equal(answers.changes, expected)
    assert {(one.kind, one.action) for one in answers.incidents} >= {("worker-lost", "dropped")}


class DyingOnce(Burgers):
    """Burgers, whose worker dies the first time a state goes beyond the limit."""

    def __init__(self, limit: float, flag: Path) -> None:
        super().__init__()
        self.limit, self.flag, self.home = limit, flag, os.getpid()

    def step(self, states: Array, params: Array | None = None) -> Array:
        if os.getpid() != self.home and np.abs(states).max() > self.limit and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(states, params)


def test_a_worker_that_died_by_chance_costs_nothing(tmp_path: Path) -> None:
    with open_executor("process", 2) as executor:
        oracle = oracle_of(DyingOnce(LIMIT, tmp_path / "died"), {"worker-lost": "retry(1)"}, executor)
        answers = oracle.ask(oracle.prepare(batch()), queries())
    assert torch.equal(answers.changes, CHANGES) and answers.dropped == ()
    assert [(one.kind, one.action) for one in answers.incidents] == [("worker-lost", "retried")]


@pytest.mark.parametrize("scheme", ["forward", "central"])
def test_dropped_coordinates_have_no_gradient_and_both_partners_go(scheme: str) -> None:
    failing, whole = (oracle_of(Limited(limit), "drop") for limit in (LIMIT, math.inf))
    found, expected = (CGE(STEP, scheme).estimate(oracle, batch()) for oracle in (failing, whole))  # type: ignore[arg-type]
    flat, wanted = (torch.cat([g.view(-1) for g in estimate.grads.values()]) for estimate in (found, expected))
    lost = sorted({place // 2 for place in LOST} if scheme == "central" else {p // 2 for p in LOST if p % 2 == 0})
    assert found.dropped == len(lost) and (flat[lost] == 0).all() and (wanted[lost] != 0).all()
    wanted[lost] = 0
    assert torch.equal(flat, wanted)


def test_the_mean_over_directions_is_of_those_that_answered() -> None:
    solver = Limited()
    oracle = oracle_of(solver, "drop", chunk=1)
    estimator = RGE(4.0, 6, "forward")
    whole = estimator.estimate(oracle, batch())
    per_query = torch.tensor(solver.seen[BATCH * UNROLL :]).view(6, -1).amax(dim=1)
    limit = float(per_query.sort().values[-2:].mean())
    assert max(solver.seen[: BATCH * UNROLL]) < limit
    lost = oracle_of(Limited(limit), "drop")
    found = estimator.estimate(lost, batch())
    assert found.dropped == 1 and whole.dropped == 0
    # the sum of six is that of the five and the one that was lost, which is a multiple of its direction
    difference = torch.cat([(6 * whole.grads[name] - 5 * found.grads[name]).view(-1) for name in whole.grads])
    alone = torch.cat([whole.grads[name].view(-1) for name in whole.grads])
    assert difference.norm() > 0 and not torch.allclose(difference, alone)


class Shaky(Burgers):
    """Burgers, failing in calls of some numbers: those of one process, counted from one."""

    error: dz.SolverError = dz.ConnectionLostError("the connection was cut.")

    def __init__(self, fails: Any) -> None:
        super().__init__()
        self.fails, self.calls = fails, 0

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.calls += 1
        if self.fails(self.calls):
            raise self.error
        return super().step(states, params)


#: Where a step is that all queries share.
OWN = "in the rollout of the loop's own network"


def trainer(folder: Path, solver: Burgers, estimator: Estimator, on_failure: Any) -> Trainer:
    oracle = oracle_of(solver, on_failure)
    optimiser = torch.optim.Adam(oracle.model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser)
    return Trainer(oracle, estimator, optimiser, lambda step: batch(), RunFolder(folder, {}), scheduler=scheduler)


@pytest.mark.parametrize("estimator", [CGE(1e-3), dz.BackPropagation()], ids=["CGE", "back-propagation"])
def test_a_training_step_whose_base_fails_is_skipped(tmp_path: Path, estimator: Estimator) -> None:
    """The first call of a training step is of the network as it is, which all queries share."""
    shaky = Shaky(lambda call: call == 1)
    shaky.spec = Burgers(max_batch=64).spec
    failing = trainer(tmp_path / "skips", shaky, estimator, "drop")
    failing.oracle.loop.layer.solver = _WholeCalls(shaky)
    progress = failing.train(3, tensorboard=False)
    undisturbed = trainer(tmp_path / "two", Burgers(), estimator, "drop").train(2, tensorboard=False)
    metrics = RunFolder(tmp_path / "skips", {}).metrics()
    assert [line["loss"] is None for line in metrics] == [True, False, False] and progress.step == 3
    assert progress.queries == undisturbed.queries and progress.failures == {"connection-lost skipped": 1}
    found, expected = (load_checkpoint(tmp_path / name).tensors for name in ("skips", "two"))
    assert_same_tensors(*({k: v for k, v in t.items() if k.startswith("network")} for t in (found, expected)))
    (line,) = [json.loads(line) for line in (tmp_path / "skips" / "failures.jsonl").read_text().splitlines()]
    assert (line["step"], line["kind"], line["action"], line["query"]) == (1, "connection-lost", "skipped", OWN)


def test_a_first_batch_that_fails_is_left_to_training() -> None:
    """Before it, a run only looks whether a loss repeats."""
    oracle = oracle_of(Limited(limit=0.0), "retry(1), drop")
    assert _require_repeatable(oracle, batch()) == 0


class _WholeCalls(dz.Solver):
    """A solver, failing for all states of a call if it fails for one."""

    def __init__(self, solver: dz.Solver) -> None:
        self.solver, self.spec = solver, solver.spec

    def step(self, states: Array, params: Array | None = None) -> Array:
        try:
            return self.solver.step(states, params)
        except dz.ConnectionLostError as error:
            raise dz.StatesFailedError(dict.fromkeys(range(len(states)), error), states) from error


def test_a_solver_that_is_gone_ends_the_run_after_all(tmp_path: Path) -> None:
    gone = trainer(tmp_path, Shaky(lambda call: True), CGE(1e-3), "drop")
    with pytest.raises(dz.ConnectionLostError, match=r"the connection was cut.*10 training steps before were skipped"):
        gone.train(100, tensorboard=False)
    actions = [json.loads(line)["action"] for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert actions == ["skipped"] * 10 + ["aborted"]


def test_retries_are_counted_as_solver_steps(tmp_path: Path) -> None:
    counts = {}
    for name, fails in (("shaky", lambda call: call % 5 == 0), ("steady", lambda call: False)):
        solver = Shaky(fails)
        solver.spec, solver.error = Burgers(max_batch=1).spec, dz.ExitCodeError("3")
        one = trainer(tmp_path / name, solver, CGE(1e-3), {"exit-code": "retry(3)"})
        one.oracle.queries_per_chunk = 4
        counts[name] = one.train(1, tensorboard=False), solver.calls
    (shaky, calls), (steady, _) = counts["shaky"], counts["steady"]
    assert shaky.solver_steps == calls == steady.solver_steps + shaky.failures["exit-code retried"]
    assert_same_tensors(*(load_checkpoint(tmp_path / name).tensors for name in counts))


def test_failures_of_a_run_are_in_its_log_and_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declared in settings, as the command line takes them; training and evaluation are counted apart."""
    data = line_data(tmp_path / "line.h5")
    limited = Component("test_dropped_queries.Limited", {"limit": 2.2})
    settings = train_settings(
        tmp_path / "run",
        data,
        solver=limited,
        on_failure={"default": "abort", "exit-code": "drop"},
        workers=Workers("serial", 1),
        estimator=Component("deepzero_sim.CGE", {"step_size": 0.9, "scheme": "forward"}),
        updates=2,
    )
    progress = train(settings)
    lines = [json.loads(line) for line in (settings.run / "failures.jsonl").read_text().splitlines()]
    assert len(lines) == progress.failures["exit-code dropped"] > 0 and all(line["query"] for line in lines)
    assert RunFolder.metrics(_At(settings.run))[-1]["failures"] == progress.failures  # type: ignore[arg-type]
    monkeypatch.setattr(Limited, "share", 0.5 / 2.2)
    comparison = compare({"ZO-SOL": settings.run}, data, 3)
    said = results(comparison, {})["methods"]["ZO-SOL"]
    assert said["failures"] == {"training": progress.failures, "evaluation": {"exit-code lost": 3}}
    assert said["mae"] is None


def test_failures_while_layer_ratios_are_found_outlive_the_process(tmp_path: Path) -> None:
    """A run that ended before its first update counts them when it goes on, as one that did not end."""
    data = line_data(tmp_path / "line.h5")
    settings = train_settings(
        tmp_path / "run",
        data,
        solver=Component("test_dropped_queries.Limited", {"limit": 2.2}),
        on_failure="drop",
        workers=Workers("serial", 1),
        sparsity=0.5,
        layer_ratios=Component("zo-grasp", {"step_size": 0.6, "gradient": "cge"}),
        updates=2,
    )
    undisturbed = train(settings)
    before = json.loads((settings.run / "ratios.json").read_text())["failures"]
    for path in settings.run.iterdir():  # as a kill between the search and the first update leaves it
        if path.name not in ("config.yaml", "ratios.json", "failures.jsonl"):
            path.unlink()
    resumed = train(settings)
    assert resumed.failures == undisturbed.failures and resumed.failures["exit-code dropped"] >= before["exit-code dropped"] > 0
    assert resumed.solver_steps == undisturbed.solver_steps
    steps = [json.loads(line)["step"] for line in (settings.run / "failures.jsonl").read_text().splitlines()]
    assert steps.count(0) == sum(before.values()) and len(steps) == sum(resumed.failures.values())


class _At:
    def __init__(self, path: Path) -> None:
        self.path = path


def test_no_rollout_starts_where_the_first_step_failed(tmp_path: Path) -> None:
    """The solver's step from every frame is taken before training; a frame that is dropped there is no start."""
    data = line_data(tmp_path / "line.h5")
    trajectories = load(data)
    sizes = np.abs(trajectories.frames[:, :-1]).max(axis=(2, 3))
    limit = float(np.sort(sizes.ravel())[-3])
    with pytest.raises(dz.ExitCodeError, match=r"failure: exit-code, in the step from frame \d+ of simulation \d"):
        advance_frames(Limited(limit), trajectories)
    advanced, account = advance_frames_with_account(Limited(limit), trajectories, FailurePolicy("drop"))
    lost = sizes > limit
    assert np.array_equal(np.isnan(advanced).any(axis=(2, 3)), lost) and lost.sum() == len(account.incidents) == 2
    starts = UnrolledBatches(trajectories, advanced, 500, 3, seed=0)(0)
    assert bool(torch.isfinite(starts[3]).all()) and float(starts[0].abs().amax(dim=(1, 2)).max()) <= limit  # type: ignore[union-attr]
    with pytest.raises(dz.DataError, match="failed from every frame that a rollout may start at"):
        UnrolledBatches(trajectories, np.full_like(advanced, np.nan), 2, 3)


def test_what_was_trained_before_an_abort_is_not_lost(tmp_path: Path) -> None:
    steady = trainer(tmp_path / "steady", Burgers(), CGE(1e-3), "abort")
    steady.train(2, tensorboard=False)
    calls = Shaky(lambda call: False)
    failing = trainer(tmp_path / "failing", calls, CGE(1e-3), "abort")
    failing.batches = lambda step: setattr(calls, "fails", lambda call: step == 2) or batch()  # type: ignore[func-returns-value]
    with pytest.raises(dz.ConnectionLostError):
        failing.train(9, tensorboard=False)
    assert_same_tensors(*(load_checkpoint(tmp_path / name).tensors for name in ("steady", "failing")))
