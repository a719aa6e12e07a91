"""Networks of mixed types: complex weights as in Fourier neural operators, integers and truth values, and buffers of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import POINTS, LogisticSolver, initial_states, mse
from torch import nn
from training_cases import assert_same_tensors, line_data, tensors, train_settings

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.common.module_state import cast, precision_of
from deepzero_sim.estimators import BackPropagation
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import trained_loop
from deepzero_sim.training.runs.training import train


class Spectral(nn.Module):
    """A layer of a Fourier neural operator between entries of other types, which come first among its parameters."""

    def __init__(self, spec: Any = None, modes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.order = nn.Parameter(torch.arange(POINTS), requires_grad=False)
        self.used = nn.Parameter(torch.ones(POINTS, dtype=torch.bool), requires_grad=False)
        self.weight = nn.Parameter(0.1 * torch.randn(1, 1, modes, dtype=torch.cfloat, generator=generator))
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("phase", torch.exp(1j * torch.arange(modes)).to(torch.cfloat))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        modes = self.weight.shape[-1]
        spectrum = torch.fft.rfft(states[..., self.order] * self.used)
        kept = torch.einsum("bix,iox->box", spectrum[..., :modes], self.weight * self.phase)
        return torch.fft.irfft(nn.functional.pad(kept, (0, spectrum.shape[-1] - modes)), n=states.shape[-1]) + self.bias


@pytest.mark.parametrize(("real", "complex_"), [(torch.float32, torch.complex64), (torch.float64, torch.complex128)])
def test_a_cast_keeps_imaginary_parts_and_what_is_no_number(real: torch.dtype, complex_: torch.dtype) -> None:
    network = Spectral()
    weight = network.weight.detach().clone()
    cast(network, real)
    assert (network.weight.dtype, network.phase.dtype, network.bias.dtype) == (complex_, complex_, real)
    assert (network.order.dtype, network.used.dtype, network.calls.dtype) == (torch.long, torch.bool, torch.long)
    assert torch.equal(network.weight.detach().to(weight.dtype), weight)
    assert precision_of(network) == real


def test_weights_in_two_places_stay_one_when_cast() -> None:
    shared = nn.Linear(2, 2)
    network = cast(nn.Sequential(shared, nn.Sequential(shared)), torch.float64)
    assert len(list(network.parameters())) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_corrector_is_given_numbers_whatever_its_first_parameter_holds(dtype: torch.dtype) -> None:
    seen = []

    class Corrector(Spectral):
        def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
            assert params is not None
            seen.append((states.dtype, params.dtype))
            return super().forward(states, params)

    network = cast(Corrector(), dtype)
    states, params = initial_states(2), np.array([[0.5], [1.5]])
    rollout = dz.SolverLoop(LogisticSolver(), network).rollout(states, params, 2).detach()
    assert set(seen) == {(dtype, dtype)}
    current = states
    for step in range(2):
        current = LogisticSolver().step(current, params)
        current = current + network(torch.from_numpy(current).to(dtype), torch.from_numpy(params)).detach().double().numpy()
        np.testing.assert_array_equal(rollout[:, step], current)


def test_the_gradient_of_complex_weights_is_the_slope_in_both_parts() -> None:
    """torch's gradient `g` of a real loss: `l(w + h v) - l(w) = h Re(conj(g) v)`."""
    network = cast(Spectral(), torch.float64)
    states = torch.from_numpy(initial_states(2))
    targets = torch.from_numpy(initial_states(2, seed=3))
    found = BackPropagation().estimate(dz.ModelOracle(network, mse), (states, targets)).grads["weight"]
    step = 1e-6
    for unit in (1, 1j):
        losses = []
        for sign in (1, -1):
            moved = cast(Spectral(), torch.float64)
            with torch.no_grad():
                moved.weight[0, 0, 1] += sign * step * unit
            losses.append(float(mse(moved(states), targets).detach()))
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float((found[0, 0, 1].conj() * unit).real), rel=1e-6)


@pytest.mark.parametrize("estimator", [dz.CGE(), dz.RGE()], ids=["CGE", "RGE"])
def test_complex_weights_are_refused_where_losses_are_differenced_and_the_way_out_works(estimator: Any) -> None:
    batch = torch.from_numpy(initial_states(2)), torch.from_numpy(initial_states(2, seed=3))
    with pytest.raises(dz.ConfigError, match=r"real parameter of shape \(1, 1, 3, 2\) and use torch.view_as_complex"):
        estimator.estimate(dz.ModelOracle(cast(Spectral(), torch.float64), mse), batch)


class Real(nn.Module):
    """The layer above, by a real parameter with an axis of two parts."""

    def __init__(self) -> None:
        super().__init__()
        whole = Spectral()
        self.parts = nn.Parameter(torch.view_as_real(whole.weight.detach()).clone())
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("phase", whole.phase)

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        weight = torch.view_as_complex(self.parts) * self.phase
        modes = weight.shape[-1]
        spectrum = torch.fft.rfft(states)
        kept = torch.einsum("bix,iox->box", spectrum[..., :modes], weight)
        return torch.fft.irfft(nn.functional.pad(kept, (0, spectrum.shape[-1] - modes)), n=states.shape[-1]) + self.bias


@pytest.mark.filterwarnings("ignore:.*queried by whole forward passes")
def test_a_real_parameter_seen_as_complex_is_queried() -> None:
    batch = torch.from_numpy(initial_states(2)), torch.from_numpy(initial_states(2, seed=3))
    exact = BackPropagation().estimate(dz.ModelOracle(cast(Spectral(), torch.float64), mse), batch).grads
    found = dz.CGE(step_size=1e-4, scheme="central").estimate(dz.ModelOracle(cast(Real(), torch.float64), mse), batch).grads
    assert torch.allclose(torch.view_as_complex(found["parts"]), exact["weight"], rtol=1e-6, atol=1e-9)


def spectral_settings(run: Path, data: Path, dtype: str, **changes: Any) -> TrainSettings:
    solver, network = Component("problems.Burgers", {"dtype": dtype}), Component("test_mixed_networks.Spectral")
    return train_settings(run, data, solver=solver, network=network, **changes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["NON", "DETACHED", "STRAIGHT-THROUGH", "SolverLayer"])
def test_complex_correctors_are_trained_resumed_and_evaluated(method: Any, dtype: str, tmp_path: Path) -> None:
    data = line_data(tmp_path / "data.h5", dtype=dtype)
    settings = [spectral_settings(tmp_path / name, data, dtype, method=method) for name in ("whole", "stopped")]
    train(settings[0])
    with pytest.raises(KeyboardInterrupt):
        train(settings[1], report=_stop_at(3))
    train(settings[1])
    assert_same_tensors(tensors(settings[0].run), tensors(settings[1].run))
    start = cast(Spectral(), getattr(torch, dtype))
    network = trained_loop(settings[0].run).corrector
    assert network.weight.dtype == start.weight.dtype
    moved = network.weight.detach() - start.weight.detach()
    assert float(moved.real.abs().max()) > 0
    assert float(moved.imag.abs().max()) > 0
    comparison = compare({method: settings[0].run}, data, 3)
    assert comparison.methods[method].evaluation.mae < np.inf


def test_zero_order_training_of_a_complex_corrector_says_what_to_do(tmp_path: Path) -> None:
    data = line_data(tmp_path / "data.h5", dtype="float32")
    with pytest.raises(dz.ConfigError, match="view_as_complex"):
        train(spectral_settings(tmp_path / "run", data, "float32", method="ZO-SOL"))


def _stop_at(step: int) -> Callable[[Any], None]:
    def report(progress: Any) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return report
