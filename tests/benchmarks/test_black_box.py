"""Optimisers that only see losses: they find minima, draw the same again, and their losses are the oracle's."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers, burgers_oracle, snapshot
from training_cases import assert_same_tensors, line_data, tensors, train_settings, without_seconds

from deepzero_sim.benchmarks.black_box import BLACK_BOXES, BlackBox, Numbers, Search, centre_ranks, usual_population
from deepzero_sim.benchmarks.black_box_training import BlackBoxSettings, compute_losses, flat, train_black_box
from deepzero_sim.cli.settings.bench import WakeMethod
from deepzero_sim.common.types import Array
from deepzero_sim.errors import MissingExtraError, RunError
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.training.checkpoints import load_checkpoint
from deepzero_sim.training.checkpoints import snapshot as snapshot_of
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import read_metrics
from deepzero_sim.training.runs.settings import Workers
from deepzero_sim.training.runs.training import train

PACKAGES = {"CMA-ES": "cma", "Nevergrad": "nevergrad"}


def black_box(method: WakeMethod, **changes: Any) -> BlackBox:
    if method in PACKAGES:
        pytest.importorskip(PACKAGES[method])
    search = {"start": np.full(20, 0.5), "sigma": 0.1, "population": 14, "generations": 60, "seed": 3} | changes
    return BLACK_BOXES[method](Search(**search))


def sphere(candidates: Numbers) -> Numbers:
    """Its minimum is at the origin."""
    return np.asarray((candidates**2).sum(axis=-1))


def minimise(optimiser: BlackBox, generations: int, loss: Callable[[Numbers], Numbers] = sphere) -> Numbers:
    for _ in range(generations):
        optimiser.tell(loss(optimiser.ask()))
    return optimiser.best


@pytest.mark.parametrize(("method", "start", "share"), [("CMA-ES", 0.5, 0.1), ("Nevergrad", 0.5, 0.5), ("ES", 0.02, 0.5)])
def test_a_quadratic_gets_smaller(method: WakeMethod, start: float, share: float) -> None:
    optimiser = black_box(method, start=np.full(20, start), sigma=start / 5)
    assert optimiser.best == pytest.approx(np.full(20, start))
    assert optimiser.ask().shape == (14, 20)
    optimiser = black_box(method, start=np.full(20, start), sigma=start / 5)
    assert float(sphere(minimise(optimiser, 60))) < share * 20 * start**2


@pytest.mark.parametrize("method", BLACK_BOXES)
def test_the_same_losses_lead_the_same_way_whatever_else_is_drawn(method: WakeMethod) -> None:
    first = minimise(black_box(method), 5)
    second = black_box(method)
    for _ in range(5):
        np.random.random(7)
        torch.rand(3)
        second.tell(sphere(second.ask()))
    assert np.array_equal(first, second.best)
    assert not np.array_equal(first, minimise(black_box(method, seed=4), 5))


@pytest.mark.parametrize("method", BLACK_BOXES)
def test_generators_of_others_are_left_alone(method: WakeMethod) -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
    minimise(black_box(method), 2)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize("method", BLACK_BOXES)
def test_infinite_losses_are_survived(method: WakeMethod) -> None:
    assert np.isfinite(minimise(black_box(method), 1, lambda candidates: np.full(14, math.inf))).all()

    def with_wall(candidates: Numbers) -> Numbers:
        return np.where(candidates[:, 0] > 0.5, math.inf, sphere(candidates))

    best = minimise(black_box(method), 60, with_wall)
    assert np.isfinite(best).all() and float(sphere(best)) < 20 * 0.25


def test_the_gradient_of_evolution_strategies_points_uphill() -> None:
    slope = np.arange(1.0, 21.0)
    moved = minimise(black_box("ES", population=400), 1, lambda candidates: candidates @ slope) - 0.5
    # Adam's first step is the learning rate against each coordinate's sign
    assert np.abs(moved) == pytest.approx(np.full(20, 5e-4), rel=1e-3)
    assert (moved[5:] < 0).all()


def test_candidates_of_evolution_strategies_come_in_opposite_pairs() -> None:
    candidates = black_box("ES").ask() - 0.5
    assert np.allclose(candidates[:7], -candidates[7:]) and 0.05 < candidates.std() < 0.2


def test_ranks() -> None:
    assert centre_ranks(np.array([3.0, 1.0, 2.0])).tolist() == [0.5, -0.5, 0.0]
    assert centre_ranks(np.array([1.0, math.inf, math.inf])).tolist() == [-0.5, 0.25, 0.25]
    assert centre_ranks(np.full(4, math.inf)).tolist() == [0.0] * 4


def test_the_usual_population_is_even() -> None:
    assert usual_population(482) == 24 and all(usual_population(d) % 2 == 0 for d in range(1, 50))


@pytest.mark.parametrize(("method", "package"), PACKAGES.items())
def test_a_package_that_is_missing_is_named(method: WakeMethod, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"{method} needs the package '{package}'.*pip install 'deepzero-sim\[bench\]'"
    ):
        BLACK_BOXES[method](Search(np.zeros(2), 0.1, 4, 2, 0))


# ---- losses


def candidates_around(model: torch.nn.Module, count: int, sigma: float = 0.01) -> Numbers:
    return flat(model) + sigma * np.random.default_rng(0).standard_normal((count, len(flat(model))))


def test_losses_are_the_oracles_and_every_step_is_counted() -> None:
    oracle, batch = burgers_oracle(queries_per_chunk=2)
    before, candidates = snapshot(oracle.model), candidates_around(oracle.model, 5)
    losses, solver_steps = compute_losses(oracle, batch, candidates)
    assert solver_steps == 2 * 3 + 5 * 2 * 2  # the start's rollouts, and five candidates' after the first step
    for candidate, loss in zip(candidates, losses.tolist(), strict=True):
        changed, first = copy.deepcopy(oracle), 0
        for p in trainable(changed.model).values():
            part = torch.from_numpy(candidate[first : first + p.numel()])
            p.data.copy_(part.view(p.shape))
            first += p.numel()
        assert loss == pytest.approx(changed.prepare(batch).loss, rel=1e-9)
    assert_same_tensors(before, snapshot(oracle.model))


class Fragile(Burgers):
    """Breaks down where states are large."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        advanced = super().step(states, params)
        return np.where(np.abs(states).max(axis=(1, 2), keepdims=True) > 50, np.nan, advanced)


@pytest.mark.parametrize("bad", [[2], [0, 4], [0, 1, 2, 3, 4]])
def test_a_candidate_that_blows_up_has_an_infinite_loss_and_spoils_no_other(bad: list[int]) -> None:
    oracle, batch = burgers_oracle(solver=Fragile())
    candidates = candidates_around(oracle.model, 5)
    expected, steps = compute_losses(oracle, batch, candidates)
    candidates[bad] += 1e3
    losses, solver_steps = compute_losses(oracle, batch, candidates)
    assert np.flatnonzero(np.isinf(losses)).tolist() == bad
    good = np.isfinite(losses)
    assert losses[good] == pytest.approx(expected[good], rel=1e-9)
    assert solver_steps == steps + 2 * len(bad)  # as if a rollout that breaks down went on, its known first step too


# ---- runs


@pytest.fixture
def start(tmp_path: Path) -> BlackBoxSettings:
    """Set up a quick run, and the one it starts from."""
    data = line_data(tmp_path / "line.h5")
    non = train_settings(tmp_path / "NON", data, method="NON", updates=20)
    train(non)
    return BlackBoxSettings(
        run=tmp_path / "ES",
        train_data=data,
        method="ES",
        start=non.run,
        solver=non.solver,
        network=non.network,
        generations=6,
        population=10,
        spread=0.05,
        unroll=3,
        workers=Workers("serial", 1),
    )


def settings_of(start: BlackBoxSettings, method: WakeMethod, name: str) -> BlackBoxSettings:
    if method in PACKAGES:
        pytest.importorskip(PACKAGES[method])
    return replace(start, method=method, run=start.run.parent / name)


def test_a_run_counts_its_steps_and_keeps_what_it_was_on_the_way(start: BlackBoxSettings) -> None:
    seen: list[Progress] = []
    progress = train_black_box(start, seen.append, keep=(2, 6))
    assert [now.step for now in seen] == [1, 2, 3, 4, 5, 6] and seen[-1] == progress
    assert progress.queries == 6 * (10 + 1) and progress.solver_steps == 6 * (10 + 1) * 2 * 2
    kept = load_checkpoint(snapshot_of(start.run, 2))
    assert kept.state["progress"]["step"] == 2 and kept.state["progress"]["solver_steps"] == 2 * 11 * 4
    assert not snapshot_of(start.run, 3).exists()
    before, after = tensors(start.start), tensors(start.run)
    assert after.keys() == {name for name in before if name.startswith("network.")}
    assert torch.equal(after["network.state_scale"], before["network.state_scale"])
    assert not torch.equal(after["network.network.0.weight"], before["network.network.0.weight"])
    assert_same_tensors(after, load_checkpoint(snapshot_of(start.run, 6)).tensors)


class KilledError(Exception):
    """Ends a run in its middle."""


@pytest.mark.parametrize("method", BLACK_BOXES)
def test_killed_and_resumed_it_ends_the_same(start: BlackBoxSettings, method: WakeMethod) -> None:
    whole, killed = (settings_of(start, method, name) for name in ("whole", "killed"))
    train_black_box(whole, keep=(5,))

    def kill(progress: Progress) -> None:
        if progress.step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_black_box(killed, kill, keep=(5,))
    with (killed.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "los')  # cut off
    train_black_box(killed, keep=(5,))
    assert_same_tensors(tensors(whole.run), tensors(killed.run))
    assert_same_tensors(*(load_checkpoint(snapshot_of(run.run, 5)).tensors for run in (whole, killed)))
    logs = [without_seconds(read_metrics(run.run / "metrics.jsonl")) for run in (whole, killed)]
    assert logs[0] == logs[1] and len(logs[0]) == 6


def test_a_finished_run_is_left_alone(start: BlackBoxSettings) -> None:
    progress = train_black_box(start)
    before = (start.run / "checkpoint.safetensors").stat().st_mtime_ns
    assert train_black_box(start, lambda _: pytest.fail("it trains")) == progress
    assert (start.run / "checkpoint.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"spread is 0\.05 there, 0\.1 here"):
        train_black_box(replace(start, spread=0.1))


def test_workers_change_no_bit(start: BlackBoxSettings) -> None:
    several = replace(start, run=start.run.parent / "several", workers=Workers("process", 2))
    train_black_box(start)
    train_black_box(several)
    assert_same_tensors(tensors(start.run), tensors(several.run))
