"""Losses of rollouts: by hand, by autograd and by queries, for every kind; and what cannot be used in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.losses.base import residuals_of
from deepzero_sim.coupling.losses.named import build_loss
from deepzero_sim.datasets.trajectories import Trajectories

SPEC = dz.SolverSpec(name="plane", state_shape=(2, 8, 6), dt=0.1, channels=("u", "v"), axes=("y", "x"))
STEPS = 4

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def periodic_frames(simulations: int = 3, frames: int = 7) -> Array:
    """Waves that travel over a periodic plane, another amplitude in each simulation and channel."""
    y, x = np.meshgrid(np.arange(8) / 8, np.arange(6) / 6, indexing="ij")
    random = np.random.default_rng(0)
    found = np.zeros((simulations, frames, 2, 8, 6))
    for wave in ((1, 0), (0, 1), (1, 1), (2, 1)):
        sizes, phases = random.normal(1, 0.4, (simulations, 1, 2, 1, 1)), random.random((simulations, 1, 2, 1, 1))
        times = 0.07 * np.arange(frames).reshape(1, -1, 1, 1, 1)
        found += sizes * np.sin(2 * np.pi * (wave[0] * y + wave[1] * x + phases + times))
    return found.astype(np.float32)


DATA = Trajectories(periodic_frames())


def energy(states: torch.Tensor) -> torch.Tensor:
    return states.square().mean(dim=(2, 3, 4))


LOSSES: dict[str, dz.losses.Loss] = {
    "rollout": dz.losses.Rollout(),
    "noise": dz.losses.Rollout(noise=[0.1, 0.2]),
    "terminal": dz.losses.Terminal(),
    "every": dz.losses.Every(2),
    "observed": dz.losses.Observed(points=[[0, 0], [7, 5], [3, 2]], channels=["v"], steps=[1, 3]),
    "time mean": dz.losses.TimeMean(),
    "spectrum": dz.losses.Spectrum(),
    "quantity": dz.losses.Quantity(energy),
    "sum": dz.losses.Sum([(dz.losses.Terminal(), 2.0), {"name": "spectrum", "weight": 0.1}]),
}


def pair(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.from_numpy(DATA.frames).to(dtype)
    references = frames[:2, 1 : STEPS + 1]
    noise = torch.randn(references.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return references + 0.3 * noise, references


# ---- by hand


def scaled_squares(rollout: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    scales = torch.from_numpy(DATA.frames).double().std(dim=(0, 1, 3, 4), correction=0)
    return ((rollout - references) / scales[:, None, None]).square()


BY_HAND: dict[str, Measure] = {
    "rollout": lambda s, r: scaled_squares(s, r).mean(),
    "noise": lambda s, r: ((s - r) / torch.tensor([0.1, 0.2])[:, None, None]).square().mean(),
    "terminal": lambda s, r: scaled_squares(s, r)[:, 3].mean(),
    "every": lambda s, r: scaled_squares(s, r)[:, [1, 3]].mean(),
    "observed": lambda s, r: scaled_squares(s, r)[:, [0, 2], 1][:, :, [0, 7, 3], [0, 5, 2]].mean(),
    "time mean": lambda s, r: scaled_squares(s.mean(1), r.mean(1)).mean(),
    "quantity": lambda s, r: (
        ((energy(s) - energy(r)) / energy(torch.from_numpy(DATA.frames[:, 1:])).double().std(correction=0)).square().mean()
    ),
    "sum": lambda s, r: 2 * scaled_squares(s, r)[:, 3].mean() + 0.1 * LOSSES["spectrum"].build(SPEC, DATA)(s, r),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_is_what_it_says(name: str) -> None:
    rollout, references = pair()
    measure = LOSSES[name].build(SPEC, DATA)
    torch.testing.assert_close(measure(rollout, references), BY_HAND[name](rollout, references), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_each_is_zero_of_the_references_themselves_and_has_the_gradient_of_its_slope(name: str) -> None:
    rollout, references = pair()
    measure = LOSSES[name].build(SPEC, DATA)
    assert float(measure(references, references)) == 0 < float(measure(rollout, references))
    assert torch.autograd.gradcheck(lambda s: measure(s, references), rollout.requires_grad_())


class Added(nn.Module):
    """A convolution as the correction."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular").double()

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        result: torch.Tensor = 0.1 * self.layer(states)
        return result


@pytest.mark.parametrize("name", LOSSES)
def test_queries_find_the_gradient_that_autograd_finds(name: str) -> None:
    """The whole loop by differences of losses, which are carried through every loss without loss of digits."""
    spec = dz.SolverSpec(name="plane", state_shape=(2, 8, 6), dt=0.1, dtype="float64")
    loop = dz.SolverLoop(dz.as_solver(lambda s: 0.9 * s, spec), Added(), unroll=STEPS)
    batch = (torch.from_numpy(DATA.frames[:2, 0]).double(), None, pair()[1])
    measure = LOSSES[name].build(SPEC, DATA)
    estimate = dz.CGE(step_size=1e-5, scheme="central").estimate(dz.LoopOracle(loop, measure), batch)
    states, rollout = batch[0], []
    for _ in range(STEPS):
        states = loop.correct(0.9 * states)
        rollout.append(states)
    loss = measure(torch.stack(rollout, dim=1), batch[2])
    loss.backward()
    assert estimate.loss == pytest.approx(float(loss.detach()))
    for parameter, found in zip(loop.corrector.parameters(), estimate.grads.values(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-6, atol=1e-7 * float(loss.detach()))


# ---- spectra


@pytest.mark.parametrize("shape", [(1, 16), (1, 15), (2, 8, 6), (1, 5, 4, 6)])
def test_energies_add_up_to_the_mean_square_and_a_wave_lies_in_its_shell(shape: tuple[int, ...]) -> None:
    spec = dz.SolverSpec(name="any", state_shape=shape, dt=0.1)
    energies = dz.losses.Spectrum().build(spec, Trajectories(np.ones((1, 2, *shape), np.float32))).energies  # type: ignore[attr-defined]
    states = torch.randn(3, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(energies(states).sum(-1), states.square().mean(dim=1).flatten(2).mean(-1))
    x = torch.arange(shape[-1], dtype=torch.float64) / shape[-1]
    found = energies((2 * math.pi * (x + 0.1)).sin().expand(1, 1, *shape))[0, 0]
    shell = round(max(shape[1:]) / shape[-1])
    assert float(found[shell]) == pytest.approx(0.5) and float(found.sum()) == pytest.approx(0.5)


def test_energies_are_those_of_the_fast_transform() -> None:
    spec = dz.SolverSpec(name="any", state_shape=(1, 16), dt=0.1)
    energies = dz.losses.Spectrum().build(spec, Trajectories(np.ones((1, 2, 1, 16), np.float32))).energies  # type: ignore[attr-defined]
    state = torch.randn(1, 1, 1, 16, dtype=torch.float64)
    waves = torch.fft.rfft(state[0, 0, 0], norm="forward").abs().square()
    torch.testing.assert_close(energies(state)[0, 0], waves * torch.tensor([1.0] + [2.0] * 7 + [1.0]))


def test_a_spectrum_does_not_see_where_waves_are_and_sees_how_large_they_are() -> None:
    measure = LOSSES["spectrum"].build(SPEC, DATA)
    _, references = pair()
    assert float(measure(references.roll((2, 3), (-2, -1)), references)) < 1e-12
    assert float(measure(1.1 * references, references)) > 1e-3


# ---- what cannot be used


def masked(frames: Array) -> Trajectories:
    mask = np.ones((2, 8, 6), bool)
    mask[0, 0] = False
    return Trajectories(np.where(mask, frames, 0), mask=mask)


WALLS = np.linspace(0, 5, 6) * np.ones((3, 7, 2, 8, 1))

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "points outside": (
        lambda: dz.losses.Observed(points=[[0, 6]]).build(SPEC, DATA),
        r"indices on the grid of solver 'plane', \(8, 6\) from 0 on, not \[0, 6\]: leave out what lies outside",
    ),
    "points of one axis": (lambda: dz.losses.Observed(points=[[3]]).build(SPEC, DATA), r"not \[3\]"),
    "no points": (lambda: dz.losses.Observed(points=[]), r"points of loss observed must be a list, or left out, not \[\]"),
    "another channel": (
        lambda: dz.losses.Observed(channels=["w"]).build(SPEC, DATA),
        "must name channels of solver 'plane', u, v, or their numbers from 0, not 'w'",
    ),
    "padding": (
        lambda: dz.losses.Observed(points=[[0, 0]], channels=["u"]).build(SPEC, masked(DATA.frames)),
        "loss observed must see a value of the solver's, not padding only",
    ),
    "late steps": (lambda: dz.losses.Observed(steps=[9]).require_sight(4), "needs rollouts of 9 steps at least, not 4: unroll"),
    "rare steps": (lambda: dz.losses.Every(5).require_sight(4), "every with k = 5 needs rollouts of 5 steps at least, not 4"),
    "a term's rare steps": (lambda: dz.losses.Sum([(dz.losses.Every(5), 1)]).require_sight(4), "needs rollouts of 5 steps"),
    "no step": (lambda: dz.losses.Every(0), "k of loss every must be a positive number of steps, not 0"),
    "noise of one channel": (
        lambda: dz.losses.Terminal(noise=[0.1]).build(SPEC, DATA),
        r"noise must be 2 positive numbers, one a channel \(u, v\), not \[0.1\]",
    ),
    "no noise": (lambda: dz.losses.Rollout(noise=[0.1, 0.0]).build(SPEC, DATA), "noise must be 2 positive numbers"),
    "walls": (
        lambda: dz.losses.Spectrum().build(SPEC, Trajectories(WALLS)),
        "needs states that are periodic along 'x', as those of solver 'plane' are not, not a change of 5 from the last point",
    ),
    "a mask": (
        lambda: dz.losses.Spectrum().build(SPEC, masked(DATA.frames)),
        "loss spectrum needs a grid without padding, but solver 'plane' has, not a mask: take another loss",
    ),
    "a constant quantity": (
        lambda: dz.losses.Quantity(lambda s: 0 * energy(s)).build(SPEC, DATA),
        "must vary over the training data, or have a scale, not a standard deviation of 0: give scale",
    ),
    "a quantity of numpy": (lambda: dz.losses.Quantity(lambda s: s.numpy()).build(SPEC, DATA), "not ndarray: use torch's"),
    "a quantity without rows": (
        lambda: dz.losses.Quantity(lambda s: s.mean()).build(SPEC, DATA),
        "a row for each of 3 rollouts",
    ),
    "a quantity that fails": (lambda: dz.losses.Quantity(lambda s: s @ 1).build(SPEC, DATA), r"raised TypeError on states"),
    "no function": (lambda: dz.losses.Quantity(3), "must be a function or its name, not int"),  # type: ignore[arg-type]
    "no terms": (lambda: dz.losses.Sum([]), "terms of loss sum must be a list of losses"),
    "an unknown term": (lambda: dz.losses.Sum([{"name": "terminall"}]), r"not 'terminall' \(did you mean 'terminal'\?\)"),
    "a term with more": (lambda: dz.losses.Sum([{"name": "terminal", "wieght": 2}]), "must have a name, and may have args and"),
    "a negative weight": (lambda: dz.losses.Sum([(dz.losses.Terminal(), -1)]), "must be a positive number, not -1"),
    "a solver for a loss": (lambda: build_loss(Component("deepzero_sim.vjp.Auto")), "must make a dz.losses.Loss, not Auto"),
    "an unknown argument": (lambda: build_loss(Component("every", {"steps": 2})), "Every cannot be made with steps=2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(dz.ConfigError, match=words):
        make()


def test_a_channel_is_named_by_its_number_too() -> None:
    rollout, references = pair()
    by_name, by_number = (dz.losses.Observed(channels=[one]).build(SPEC, DATA) for one in ("v", 1))
    assert float(by_name(rollout, references)) == float(by_number(rollout, references))


@pytest.mark.parametrize("name", LOSSES)
def test_each_is_the_sum_of_the_squares_of_its_residuals(name: str) -> None:
    rollout, references = pair()
    measure = LOSSES[name].build(SPEC, DATA)
    found = residuals_of(measure)(rollout, references)
    assert found.dim() == 1
    torch.testing.assert_close(found.square().sum(), measure(rollout, references), rtol=1e-10, atol=0)


def test_values_that_were_not_observed_have_no_residual() -> None:
    rollout, references = pair()
    references[0, 1, 0, 3:] = math.nan
    measure = dz.RolloutLoss(torch.tensor([0.5, 2.0]), torch.ones(SPEC.state_shape, dtype=torch.bool), unobserved=True)
    found = residuals_of(measure)(rollout, references)
    torch.testing.assert_close(found.square().sum(), measure(rollout, references), rtol=1e-10, atol=0)
    assert int((found == 0).sum()) == 5 * 6
