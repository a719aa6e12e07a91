"""Cyclic coordinates: turns, stale slopes by hand, and the same bits after a kill."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import Bias, FailingDecay, burgers_oracle, model_oracle, network
from torch import nn
from training_cases import assert_same_tensors, line_data, tensors, train_killed_after, train_settings

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.training.runs.training import train


def flat(named: NamedTensors) -> torch.Tensor:
    return torch.cat([one.flatten() for one in named.values()]).double()


def count_of(oracle: dz.Oracle) -> int:
    return sum(p.numel() for p in trainable(oracle.model).values())


def as_mask(oracle: dz.Oracle, active: torch.Tensor) -> Mask:
    parameters = trainable(oracle.model)
    parts = torch.split(active, [p.numel() for p in parameters.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)}


@pytest.mark.parametrize("name", ["conv2d", "linear", "batch norm"])
def test_without_stale_slopes_it_is_descent_along_blocks_of_coordinates(name: str) -> None:
    model, inputs = network(name)
    oracle, batch = model_oracle(model, inputs)
    count, seen = count_of(oracle), torch.zeros(count_of(oracle), dtype=torch.bool)
    cocd = dz.CoCD(budget=7, decay=0.0)
    for _ in range(-(-count // 7)):
        found = cocd.estimate(oracle, batch)
        block = flat(found.grads) != 0
        exact = dz.CGE().estimate(oracle, batch, as_mask(oracle, block))
        assert torch.equal(flat(found.grads), flat(exact.grads))
        assert found.queries == 1 + 2 * min(7, count)
        seen |= block
        with torch.no_grad():  # as an optimiser does
            for key, p in trainable(model).items():
                p.sub_(0.01 * found.grads[key])
    whole = flat(dz.CGE().estimate(oracle, batch).grads) != 0
    assert bool((seen | ~whole).all()), "every coordinate has its turn before the first has its second"


def test_stale_slopes_decay_until_their_turn_comes_again() -> None:
    oracle, batch = burgers_oracle()
    cocd, count = dz.CoCD(budget=10, decay=0.5), count_of(oracle)
    exact = flat(dz.CGE().estimate(oracle, batch).grads)
    expected = torch.zeros(count, dtype=torch.float64)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    turns = 0
    for _ in range(2 * (count // 10) + 3):
        found = flat(cocd.estimate(oracle, batch).grads)
        expected *= 0.5
        new = found != expected
        expected[new] = exact[new]
        turns += int(new.sum())
        assert torch.equal(found, expected) and int(new.sum()) <= 10
    assert len(order) == count and turns >= count


def test_a_budget_of_all_is_cge() -> None:
    oracle, batch = burgers_oracle()
    found, exact = dz.CoCD(budget=10**6, decay=0.7), dz.CGE().estimate(oracle, batch)
    for _ in range(2):
        estimate = found.estimate(oracle, batch)
        assert torch.equal(flat(estimate.grads), flat(exact.grads))
        assert (estimate.queries, estimate.solver_steps) == (exact.queries, exact.solver_steps)


def test_a_mask_leaves_turns_to_the_active() -> None:
    oracle, batch = burgers_oracle()
    active = torch.rand(count_of(oracle), generator=torch.Generator().manual_seed(1)) < 0.4
    cocd = dz.CoCD(budget=5, decay=1.0)
    for _ in range(-(-int(active.sum()) // 5)):
        found = cocd.estimate(oracle, batch, as_mask(oracle, active))
    assert torch.equal(flat(found.grads), flat(dz.CGE().estimate(oracle, batch, as_mask(oracle, active)).grads))


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    estimator = Component("CoCD", {"budget": 9, "decay": 0.8, "step_size": 1e-4})
    settings = train_settings(tmp_path / "whole", data, estimator=estimator, updates=7, checkpoint_every=1)
    train(settings)
    train_killed_after(replace(settings, run=tmp_path / "broken"), 3)
    assert_same_tensors(tensors(tmp_path / "whole"), tensors(tmp_path / "broken"))
    assert "estimator.slopes" in tensors(tmp_path / "whole")


def test_a_slope_that_is_lost_stays_as_old_as_it_is() -> None:
    solver = FailingDecay(np.inf)
    oracle = dz.LoopOracle(dz.SolverLoop(solver, Bias(), 3, on_failure="drop"), nn.functional.mse_loss)
    states = np.zeros((1, 1, 8))
    states[0, 0, 3] = 1.0
    batch = states, None, np.ones((1, 3, 1, 8))
    cocd = dz.CoCD(budget=8, decay=0.5, step_size=0.05, scheme="forward")
    first = flat(cocd.estimate(oracle, batch).grads)
    solver.limit = 1.02  # the query of one coordinate alone goes beyond it
    found = cocd.estimate(oracle, batch)
    assert found.dropped == 1
    assert float(flat(found.grads)[3]) == 0.5 * float(first[3]) and torch.equal(flat(found.grads)[4:], first[4:])


def test_what_cannot_be_used_is_said_in_a_sentence() -> None:
    for arguments, words in (
        ({"budget": 0}, "budget must be a positive whole number of coordinates, not 0"),
        ({"decay": 1.5}, "decay must be a number from 0 to 1, not 1.5"),
        ({"seed": -1}, "seed must be 0 or a positive whole number, not -1"),
        ({"step_size": 0.0}, "step_size must be a positive number, not 0.0"),
    ):
        with pytest.raises(dz.ConfigError, match=re.escape(words)):
            dz.CoCD(**arguments)  # type: ignore[arg-type]
    with pytest.raises(dz.ConfigError, match="the state of a CoCD must hold slopes and taken, not weights"):
        dz.CoCD().load_state_dict({"weights": torch.zeros(2)})
    cocd, (oracle, batch) = dz.CoCD(), burgers_oracle()
    cocd.estimate(oracle, batch)
    model, inputs = network("linear")
    with pytest.raises(dz.ConfigError, match=r"slopes are kept of \d+ coordinates, not \d+: make another CoCD"):
        cocd.estimate(*model_oracle(model, inputs))
