"""Ensemble Kalman inversion: posteriors known in closed form, members that fail, and the same bits wherever it runs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from problems import Burgers, FailingBurgers, assert_untouched, burgers_oracle, conv_corrector, initial_states, mse, snapshot
from torch import nn
from training_cases import assert_same_tensors, line_data, tensors, train_killed_after, train_settings

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Mask, NamedTensors
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.oracle.residuals import ResidualRequest
from deepzero_sim.training.runs.training import train
from deepzero_sim.training.trainer import MOST_SKIPPED

NOISE = 0.3

#: Networks that are linear in their parameters, and the shape of a batch.
LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (9, 4)),
    "convolution": (lambda: nn.Conv1d(2, 2, 3), (3, 2, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(1, 2, 2), (2, 1, 3, 3)),
}


def flat(named: NamedTensors) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in named.values()]).double()


def linear_case(name: str) -> tuple[dz.ModelOracle, tuple[Any, ...], torch.Tensor, torch.Tensor]:
    """An oracle of a linear network, a batch, the outputs' slopes `X`, `(n, d)`, and the outputs less the targets."""
    torch.manual_seed(1)
    make, shape = LINEAR[name]
    model, inputs = make().double(), torch.randn(shape, dtype=torch.float64)
    outputs = model(inputs).detach()
    targets = outputs + torch.randn(outputs.shape, dtype=torch.float64)
    parameters = trainable(model)
    jacobians = torch.func.jacrev(lambda named: torch.func.functional_call(model, named, (inputs,)))(
        {key: p.detach() for key, p in parameters.items()}
    )
    slopes = torch.cat([jacobians[key].reshape(outputs.numel(), -1) for key in parameters], dim=1)
    return dz.ModelOracle(model, F.mse_loss), (inputs, targets), slopes, (outputs - targets).flatten()


def given_ensemble(members: int, dimension: int, seed: int = 0) -> NamedTensors:
    """The state of an EKI with a correlated spread along random directions."""
    generator = torch.Generator().manual_seed(seed)
    size = min(members - 1, dimension)
    directions = torch.linalg.qr(torch.randn(dimension, size, generator=generator, dtype=torch.float64)).Q.T.contiguous()
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    precision = mix @ mix.T + torch.eye(size, dtype=torch.float64)
    scale = torch.tensor(1.0, dtype=torch.float64)
    return {"coordinates": torch.arange(dimension), "scale": scale, "directions": directions, "precision": precision}


def covariance(state: NamedTensors) -> torch.Tensor:
    return state["directions"].T @ torch.linalg.inv(state["precision"]) @ state["directions"]


@pytest.mark.parametrize("members", [5, 40])
@pytest.mark.parametrize("name", LINEAR)
def test_step_and_spread_are_those_of_the_linear_gaussian_posterior(name: str, members: int) -> None:
    oracle, batch, slopes, errors = linear_case(name)
    before, dimension = snapshot(oracle.model), slopes.shape[1]
    state = given_ensemble(members, dimension)
    eki = dz.EKI(members, noise=NOISE)
    eki.load_state_dict(state)
    estimate = eki.estimate(oracle, batch)
    assert_untouched(oracle.model, before)
    prior = covariance(state)
    gain = (
        prior @ slopes.T @ torch.linalg.inv(slopes @ prior @ slopes.T + NOISE**2 * torch.eye(len(errors), dtype=torch.float64))
    )
    torch.testing.assert_close(-flat(estimate.grads), -gain @ errors, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(covariance(eki.state_dict()), prior - gain @ slopes @ prior, rtol=1e-7, atol=1e-9)
    assert (estimate.queries, estimate.solver_steps, estimate.dropped) == (1 + members, 0, 0)


def test_batches_one_after_the_other_are_the_posterior_of_all() -> None:
    oracle, (inputs, targets), slopes, errors = linear_case("linear")
    prior = covariance(given_ensemble(40, slopes.shape[1]))
    eki = dz.EKI(40, noise=NOISE)
    eki.load_state_dict(given_ensemble(40, slopes.shape[1]))
    start = flat(trainable(oracle.model))
    for rows in (slice(0, 4), slice(4, 9)):
        estimate = eki.estimate(oracle, (inputs[rows], targets[rows]))
        with torch.no_grad():
            for name, p in trainable(oracle.model).items():
                p.sub_(estimate.grads[name])
    precision = torch.linalg.inv(prior) + slopes.T @ slopes / NOISE**2
    expected = -torch.linalg.solve(precision, slopes.T @ errors / NOISE**2)
    torch.testing.assert_close(flat(trainable(oracle.model)) - start, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(covariance(eki.state_dict()), torch.linalg.inv(precision), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LINEAR)
def test_a_first_ensemble_of_more_members_than_coordinates_is_the_prior_of_its_spread(name: str) -> None:
    oracle, batch, slopes, errors = linear_case(name)
    start = flat(trainable(oracle.model))
    scale = 0.5 * float(start.square().mean().sqrt())
    eki = dz.EKI(40, spread=0.5, noise=NOISE)
    estimate = eki.estimate(oracle, batch, seed=3)
    precision = torch.eye(len(start), dtype=torch.float64) / scale**2 + slopes.T @ slopes / NOISE**2
    expected = -torch.linalg.solve(precision, slopes.T @ errors / NOISE**2)
    torch.testing.assert_close(-flat(estimate.grads), expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(covariance(eki.state_dict()), torch.linalg.inv(precision), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("noise", [1e-12, 1e12])
def test_noise_that_leaves_nothing_open_or_everything_is_no_trouble(noise: float) -> None:
    oracle, batch, _, errors = linear_case("linear")
    eki = dz.EKI(noise=noise)
    for _ in range(3):
        estimate = eki.estimate(oracle, batch)
        with torch.no_grad():
            for name, p in trainable(oracle.model).items():
                p.sub_(estimate.grads[name])
    left = eki.estimate(oracle, batch).loss
    best = torch.linalg.lstsq(torch.cat([batch[0], torch.ones(9, 1, dtype=torch.float64)], 1), batch[1]).solution
    least = float((torch.cat([batch[0], torch.ones(9, 1, dtype=torch.float64)], 1) @ best - batch[1]).square().mean())
    assert left == pytest.approx(least if noise < 1 else float(errors.square().mean()), rel=1e-4)


def test_first_ensembles_of_few_members_have_the_priors_covariance_on_average() -> None:
    oracle, batch, slopes, _ = linear_case("linear")
    dimension, found = slopes.shape[1], []
    for seed in range(400):
        eki = dz.EKI(6, noise=1e6)  # whose posterior is the prior
        eki.estimate(oracle, batch, seed=seed)
        found.append(covariance(eki.state_dict()))
    scale = 0.02 * float(flat(trainable(oracle.model)).square().mean().sqrt())
    mean = torch.stack(found).mean(0) / scale**2
    assert float((mean - torch.eye(dimension)).abs().max()) < 0.3
    assert float(mean.trace()) == pytest.approx(dimension, rel=1e-6)


@pytest.mark.parametrize("units", [1.0, 1e6])
@pytest.mark.parametrize("signal", [0.03, 0.5, 0.9])
def test_a_batch_determines_the_share_of_the_ensemble_that_is_asked_for(signal: float, units: float) -> None:
    oracle, batch, _, _ = linear_case("linear")
    eki = dz.EKI(10, signal=signal)
    step = -flat(eki.estimate(dz.ModelOracle(oracle.model, _Scaled(units)), batch).grads)
    ensemble = eki.ensemble
    assert ensemble is not None
    left = ensemble.prior * torch.linalg.inv(ensemble.precision).trace() / 9  # mean of 1 / (1 + k s)
    assert 1 - float(left) == pytest.approx(signal, abs=1e-9)
    plain = -flat(dz.EKI(10, signal=signal).estimate(oracle, batch).grads)
    torch.testing.assert_close(plain, step, rtol=1e-8, atol=1e-12)


class _Scaled:
    """A mean squared error in other units."""

    def __init__(self, units: float) -> None:
        self.units = units

    def residuals(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.units * (outputs - targets).flatten() / outputs.numel() ** 0.5

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.residuals(outputs, targets).square().sum()


def test_earlier_batches_count_less_and_less() -> None:
    oracle, (inputs, targets), slopes, _ = linear_case("linear")
    eki, others = dz.EKI(decay=0.7), [dz.EKI(decay=0.0) for _ in range(2)]
    found = []
    for one, rows in zip(others, (slice(0, 4), slice(4, 9)), strict=True):
        for each in (eki, one):
            estimate = each.estimate(oracle, (inputs[rows], targets[rows]), seed=1)
        assert one.ensemble is not None
        found.append(_in_full(one.ensemble) - one.ensemble.prior * torch.eye(slopes.shape[1]))  # what the batch told
    assert eki.ensemble is not None and estimate.queries == 2 + slopes.shape[1]
    expected = eki.ensemble.prior * torch.eye(slopes.shape[1]) + 0.7 * found[0] + found[1]
    torch.testing.assert_close(_in_full(eki.ensemble), expected, rtol=1e-6, atol=1e-6 * eki.ensemble.prior)


def _in_full(ensemble: Any) -> torch.Tensor:
    """The precision in coordinates, of as many directions as there are of them."""
    full: torch.Tensor = ensemble.directions.T @ ensemble.precision @ ensemble.directions
    return full


def test_directions_of_which_data_told_least_are_drawn_anew() -> None:
    oracle, batch, _, _ = linear_case("linear")
    eki = dz.EKI(9, redraw=0.25)
    eki.estimate(oracle, batch, seed=1)
    ensemble = eki.ensemble
    assert ensemble is not None
    values, vectors = torch.linalg.eigh(ensemble.precision)
    ordered = vectors.T @ ensemble.directions
    after = ensemble.with_new_directions(0.25, torch.Generator().manual_seed(2))
    torch.testing.assert_close(after.directions @ after.directions.T, torch.eye(8, dtype=torch.float64), atol=1e-10, rtol=0)
    spanned = (ordered @ after.directions.T).norm(dim=1)
    torch.testing.assert_close(spanned[2:], torch.ones(6, dtype=torch.float64))
    assert bool((spanned[:2] < 0.999).all())
    found = torch.linalg.eigvalsh(after.precision)
    expected = torch.cat([torch.full((2,), ensemble.prior, dtype=torch.float64), values[2:]]).sort().values
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("relaxed", [False, True])
def test_members_have_the_ensembles_covariance_exactly(relaxed: bool) -> None:
    oracle, _, slopes, _ = linear_case("linear")
    eki = dz.EKI(9)
    eki.load_state_dict(given_ensemble(9, slopes.shape[1]))
    ensemble = eki.ensemble
    assert ensemble is not None
    weights = ensemble.draw(9, torch.Generator().manual_seed(0), relaxed)
    moves = ensemble.displacements(weights, trainable(oracle.model)).moves
    torch.testing.assert_close(moves.mean(0), torch.zeros(slopes.shape[1], dtype=torch.float64))
    flat_spread = ensemble.directions.T @ ensemble.directions / ensemble.prior
    torch.testing.assert_close(moves.T @ moves / 8, flat_spread if relaxed else covariance(given_ensemble(9, slopes.shape[1])))


def test_ensembles_come_to_span_what_residuals_depend_on() -> None:
    model = nn.Linear(30, 1, bias=False).double()
    inputs = torch.zeros(16, 30, dtype=torch.float64)
    inputs[:, :3] = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs[:, 3:] = 1e-3 * torch.randn(16, 27, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    oracle, batch = dz.ModelOracle(model, F.mse_loss), (inputs, torch.randn(16, 1, dtype=torch.float64))
    eki = dz.EKI(9, signal=0.3, decay=0.8, redraw=0.5)
    for seed in range(25):
        eki.estimate(oracle, batch, seed=seed)
    assert eki.ensemble is not None
    assert bool((eki.ensemble.directions[:, :3].norm(dim=0) > 0.9).all())


def failing_case(limit: float) -> tuple[dz.LoopOracle, FailingBurgers, tuple[Any, ...]]:
    torch.manual_seed(0)
    batch = initial_states(2), None, 0.1 * np.random.default_rng(1).normal(size=(2, 4, 1, initial_states(1).shape[-1]))
    solver = FailingBurgers(limit)
    return dz.LoopOracle(dz.SolverLoop(solver, conv_corrector(), 4, on_failure="drop"), F.mse_loss), solver, batch


@pytest.mark.parametrize("noise", [None, 0.1])
def test_members_that_fail_are_left_out_of_the_equations(noise: float | None) -> None:
    oracle, solver, batch = failing_case(8.0)
    parameters = trainable(oracle.model)

    def estimate() -> tuple[dz.GradientEstimate, Any]:
        eki = dz.EKI(12, spread=0.6, noise=noise)
        return eki.estimate(oracle, batch, seed=1), eki.ensemble

    while not (some := estimate())[0].dropped:
        solver.limit *= 0.998
    (found, after), limit = some, solver.limit
    assert 1 <= found.dropped <= 9 and found.queries == 13
    assert {one.action for one in found.incidents} == {"dropped"} and len(found.incidents) == found.dropped
    solver.limit, generator = np.inf, torch.Generator().manual_seed(1)
    first = dz.EKI(12, spread=0.6)._next_ensemble(parameters, after.coordinates, 11, generator)
    weights = first.draw(12, generator, relaxed=True)
    prepared = oracle.prepare(batch)
    members = first.displacements(weights, parameters)
    answers = oracle.ask(prepared, [members], request=ResidualRequest())
    solver.limit = limit
    lost = torch.zeros(12, dtype=torch.bool)
    lost[list(oracle.ask(prepared, [members]).dropped)] = True
    assert int(lost.sum()) == found.dropped and answers.residuals is not None
    some_moves, changes = members.moves[~lost], answers.residuals[~lost].double()
    a, b = some_moves - some_moves.mean(0), changes - changes.mean(0)
    told = torch.linalg.matrix_rank(after.precision - first.precision, rtol=1e-8)
    assert int(told) == 12 - found.dropped - 1 == int(torch.linalg.matrix_rank(a, rtol=1e-8))
    jacobian = torch.linalg.pinv(a, rtol=1e-8) @ b  # of the directions that the survivors span, `(d, m)`
    y = oracle.residuals(prepared)
    curvature, gradient = (first.directions @ jacobian @ x for x in (jacobian.T @ first.directions.T, y))
    weight = float((after.precision - first.precision).trace() / curvature.trace())
    if noise is not None:
        assert weight == pytest.approx(len(y) / (2 * noise**2))
    expected = -weight * first.directions.T @ torch.linalg.solve(first.precision + weight * curvature, gradient)
    torch.testing.assert_close(-flat(found.grads), expected, rtol=1e-6, atol=1e-9)


class AllMembersFail(FailingBurgers):
    """A solver that fails in every batch but that of the network itself."""

    def __init__(self) -> None:
        super().__init__(np.inf)

    def step(self, states: Any, params: Any = None) -> Any:
        if len(states) > 2:
            failed = {i: dz.ExitCodeError("it ended.") for i in range(len(states))}
            raise dz.StatesFailedError(failed, Burgers.step(self, states, params))
        return super().step(states, params)


def test_if_all_members_fail_it_says_so_and_updates_nothing() -> None:
    torch.manual_seed(0)
    batch = initial_states(2), None, np.zeros((2, 3, 1, initial_states(1).shape[-1]))
    loop = dz.SolverLoop(AllMembersFail(), conv_corrector(), 3, on_failure="drop")
    oracle = dz.LoopOracle(loop, F.mse_loss, queries_per_chunk=4)
    eki = dz.EKI(8)
    with pytest.warns(UserWarning, match="8 of 8 members of EKI failed: nothing is updated"):
        estimate = eki.estimate(oracle, batch)
    assert (estimate.grads, estimate.dropped, estimate.queries, eki.state_dict()) == ({}, 8, 9, {})
    assert len(estimate.incidents) == 8 and estimate.solver_steps > 0


def test_a_training_in_which_all_members_fail_again_and_again_ends_with_a_sentence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loop = dz.SolverLoop(AllMembersFail(), conv_corrector(), 3, on_failure="drop")
    oracle = dz.LoopOracle(loop, F.mse_loss, queries_per_chunk=4)
    before = snapshot(oracle.model)
    batch = initial_states(2), None, np.zeros((2, 3, 1, initial_states(1).shape[-1]))
    optimiser = torch.optim.SGD(oracle.model.parameters(), lr=1.0, weight_decay=0.1)
    trainer = dz.Trainer(oracle, dz.EKI(8), optimiser, lambda step: batch, dz.RunFolder(tmp_path / "run", {}))
    with warnings.catch_warnings(), pytest.raises(dz.SolverError, match=f"in all of the last {MOST_SKIPPED + 1} training"):
        warnings.simplefilter("ignore")
        trainer.train(100, tensorboard=False)
    assert_untouched(oracle.model, before)


def test_a_mask_moves_the_active_coordinates_alone_and_begins_another_ensemble() -> None:
    oracle, batch = burgers_oracle()
    parameters = trainable(oracle.model)
    generator = torch.Generator().manual_seed(3)
    mask: Mask = {name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in parameters.items()}
    oracle = dz.LoopOracle(oracle.loop, F.mse_loss)
    eki, fresh = dz.EKI(6), dz.EKI(6)
    eki.estimate(oracle, batch)
    found = eki.estimate(oracle, batch, mask, seed=4)
    assert torch.equal(flat(found.grads), flat(fresh.estimate(oracle, batch, mask, seed=4).grads))
    assert all(not bool(found.grads[name][~mask[name]].any()) for name in parameters)
    assert bool(flat(found.grads).any())


def test_workers_change_no_bit() -> None:
    found = []
    for workers in (0, 2):
        torch.manual_seed(0)
        loop = dz.SolverLoop(Burgers(), conv_corrector(), 3)
        batch = initial_states(2), None, np.zeros((2, 3, 1, initial_states(1).shape[-1]))
        if workers:
            with open_executor("process", workers) as executor:
                oracle = dz.LoopOracle(loop, F.mse_loss, executor, queries_per_chunk=3)
                found.append(dz.EKI(10).estimate(oracle, batch))
        else:
            found.append(dz.EKI(10).estimate(dz.LoopOracle(loop, F.mse_loss, queries_per_chunk=3), batch))
    assert torch.equal(*(flat(one.grads) for one in found))
    assert found[0].solver_steps == found[1].solver_steps == 2 * 3 + 10 * 2 * 2


@pytest.mark.parametrize("optimiser", [None, Component("torch.optim.SGD", {"lr": 0.5})])
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, optimiser: Component | None) -> None:
    data = line_data(tmp_path / "line.h5")
    named = optimiser or Component("torch.optim.Adam", {"lr": "suitable"})
    estimator = Component("EKI", {"members": 6})
    settings = train_settings(tmp_path / "whole", data, estimator=estimator, optimiser=named, checkpoint_every=1)
    train(settings)
    train_killed_after(replace(settings, run=tmp_path / "broken"), 2)
    assert_same_tensors(tensors(tmp_path / "whole"), tensors(tmp_path / "broken"))
    assert "estimator.precision" in tensors(tmp_path / "whole")


def test_it_trains_with_an_optimiser_that_takes_its_steps(tmp_path: Path) -> None:
    data = line_data(tmp_path / "line.h5")
    adam = Component("torch.optim.Adam", {"lr": "suitable"})
    settings = train_settings(tmp_path / "run", data, estimator=Component("EKI"), optimiser=adam, updates=40)
    first = train(replace(settings, run=tmp_path / "one", updates=1)).loss
    assert train(settings).loss < 0.3 * first
    assert "torch.optim.SGD" in (tmp_path / "run" / "config.yaml").read_text()


def test_what_cannot_be_used_is_said_in_a_sentence() -> None:
    for arguments, words in (
        ({"members": 1}, "members must be a whole number from 2, or None, not 1: one member has no spread"),
        ({"spread": 0.0}, "spread must be a positive number, not 0.0"),
        ({"signal": 1.0}, "signal must be a number between 0 and 1, not 1.0"),
        ({"redraw": 1.5}, "redraw must be a number from 0 to 1, not 1.5"),
        ({"decay": -0.1}, "decay must be a number from 0 to 1, not -0.1"),
        ({"noise": 0.0}, "noise must be a positive number, or None, not 0.0"),
        ({"sketch": 0}, "sketch must be a positive whole number of sums, or None, not 0"),
        ({"memory": 0}, "memory must be a positive whole number of bytes, not 0"),
    ):
        with pytest.raises(dz.ConfigError, match=re.escape(words)):
            dz.EKI(**arguments)  # type: ignore[arg-type]
    oracle, batch = burgers_oracle()
    with pytest.raises(dz.ConfigError, match="loss mse has no residuals"):
        dz.EKI().estimate(oracle, batch)
    assert oracle.loss_function is mse
    squares = dz.LoopOracle(oracle.loop, F.mse_loss)
    with pytest.raises(
        dz.ConfigError,
        match=r"23 members of \d+ coordinates, and changes of [\d,]+ residuals by each, must fit into memory, 1.0 kB, not",
    ):
        dz.EKI(memory=1000).estimate(squares, batch)
    with pytest.raises(dz.ConfigError, match="must hold coordinates, directions, precision and scale, not slopes"):
        dz.EKI().load_state_dict({"slopes": torch.zeros(2)})
    good = given_ensemble(4, 6)
    for damage in (
        {"precision": -good["precision"]},
        {"precision": torch.full_like(good["precision"], torch.nan)},
        {"directions": 2 * good["directions"]},
        {"scale": torch.tensor(0.0)},
    ):
        with pytest.raises(dz.ConfigError, match="must hold orthonormal directions and a covariance, not other numbers"):
            dz.EKI().load_state_dict({**good, **damage})
    with pytest.raises(dz.ConfigError, match=r"must be of 6 coordinates, not directions \(2, 6\)"):
        dz.EKI().load_state_dict({**good, "directions": good["directions"][:2]})
    with pytest.warns(UserWarning, match="the members of EKI change no residual"):
        dz.EKI(spread=1e-40).estimate(squares, batch)
