"""Evolution strategies: the formula written out, ranks, and what is left of dropped queries."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given
from hypothesis import strategies as st
from problems import Bias, FailingDecay, assert_untouched, burgers_oracle, model_oracle, network, relative_error, snapshot
from scipy.stats import rankdata
from training_cases import line_data, train_settings

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.estimators.evolution_strategies import centred_ranks
from deepzero_sim.estimators.random_directions import Kind, draw_directions
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.training.runs.training import train

KINDS: tuple[Kind, ...] = ("network", "rows")


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30))
def test_ranks_are_those_of_scipy_from_minus_a_half_to_a_half(values: list[int]) -> None:
    expected = (rankdata(values) - 1) / (len(values) - 1) - 0.5
    np.testing.assert_allclose(centred_ranks(torch.tensor(values, dtype=torch.float64)), expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_formula(kind: Kind) -> None:
    oracle, batch = burgers_oracle()
    before, parameters = snapshot(oracle.model), trainable(oracle.model)
    estimate = dz.EvolutionStrategies(0.05, 7, directions=kind).estimate(oracle, batch, seed=3)
    assert_untouched(oracle.model, before)
    drawn = draw_directions(kind, 7, parameters, None, 3)
    losses = []
    for one in torch.eye(7, dtype=torch.float64):
        u = drawn.combine(one, parameters)
        for sign in (1, -1):
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(before[name] + sign * 0.05 * u[name])
                losses.append(oracle.prepare(batch).loss)
                for name, p in parameters.items():
                    p.copy_(before[name])
    ranks = (rankdata(losses) - 1) / 13 - 0.5
    weights = torch.from_numpy(ranks[::2] - ranks[1::2]) / (2 * 0.05) * drawn.dimension / 7
    assert relative_error(estimate.grads, drawn.combine(weights, parameters)) < 1e-10
    assert estimate.queries == 15


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_order_of_losses_counts(kind: Kind) -> None:
    model, inputs = network("conv2d")
    oracle, batch = model_oracle(model, inputs)
    other = dz.ModelOracle(model, lambda z, t: 1e3 * F.mse_loss(z, t).exp())
    same = dz.ModelOracle(model, F.mse_loss)
    found = [dz.EvolutionStrategies(1e-2, 20, directions=kind).estimate(one, batch).grads for one in (same, other)]
    assert relative_error(found[0], found[1]) < 1e-12
    assert oracle.model is model


def test_dropped_queries_have_no_rank() -> None:
    states = np.zeros((1, 1, 8))
    states[0, 0, 3] = 1.0  # beyond the limit along some directions, on one side
    batch = states, None, np.ones((1, 3, 1, 8))
    oracle = dz.LoopOracle(dz.SolverLoop(FailingDecay(1.05), Bias(), 3, on_failure="drop"), F.mse_loss)
    found = dz.EvolutionStrategies(0.2, 12).estimate(oracle, batch)
    assert 1 <= found.dropped < 12 and found.queries == 25
    drawn = draw_directions("rows", 12, trainable(oracle.model), None, 0)
    prepared = oracle.prepare(batch)
    answers = oracle.ask(prepared, drawn.queries((0.2, -0.2)))
    answered = np.ones(24, dtype=bool)
    answered[list(answers.dropped)] = False
    ranks = np.zeros(24)
    ranks[answered] = (rankdata(answers.losses.numpy()[answered]) - 1) / (answered.sum() - 1) - 0.5
    known = answered[::2] & answered[1::2]
    weights = np.where(known, (ranks[::2] - ranks[1::2]) / 0.4, 0) * 8 / known.sum()
    assert int((~known).sum()) == found.dropped
    assert relative_error(found.grads, drawn.combine(torch.from_numpy(weights), trainable(oracle.model))) < 1e-10


def test_it_trains(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    estimator = Component("EvolutionStrategies", {"num_directions": 12})
    adam = Component("torch.optim.Adam", {"lr": 0.01})
    settings = train_settings(tmp_path / "es", data, estimator=estimator, optimiser=adam, updates=60)
    first = train(replace(settings, run=tmp_path / "one", updates=1)).loss
    assert train(settings).loss < 0.5 * first


def test_what_cannot_be_used_is_said_in_a_sentence() -> None:
    for arguments, words in (
        ({"step_size": 0.0}, "step_size must be a positive number, not 0.0"),
        ({"num_directions": 0}, "num_directions must be a positive whole number, not 0"),
        ({"directions": "all"}, "directions must be one of rows, network, not 'all'"),
    ):
        with pytest.raises(dz.ConfigError, match=re.escape(words).replace("rows,\\ network", "network,\\ rows")):
            dz.EvolutionStrategies(**arguments)  # type: ignore[arg-type]
