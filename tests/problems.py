"""Small real problems that the tests share: solvers, networks, batches."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from deepzero_sim.common.types import Array, NamedTensors
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ExitCodeError, StatesFailedError
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.oracle.parameters import trainable
from deepzero_sim.solver.contract import DifferentiableSolver, Solver
from deepzero_sim.solver.spec import SolverSpec

POINTS = 16


class Burgers(Solver):
    """Viscous Burgers' equation `u_t + (u^2/2)_x = nu u_xx` on a periodic line: upwind flux, explicit diffusion."""

    def __init__(self, points: int = POINTS, dtype: str = "float64", **spec: Any) -> None:
        self.spec = SolverSpec(name="burgers", state_shape=(1, points), dt=0.01, dtype=dtype, stencil=1, **spec)

    def step(self, states: Array, params: Array | None = None) -> Array:
        spacing, viscosity = 2 * np.pi / states.shape[-1], 0.05 if params is None else params[:, :, None]
        flux = 0.5 * np.maximum(states, 0) ** 2 + 0.5 * np.minimum(np.roll(states, -1, -1), 0) ** 2
        diffusion = np.roll(states, -1, -1) - 2 * states + np.roll(states, 1, -1)
        change = -(flux - np.roll(flux, 1, -1)) / spacing + viscosity * diffusion / spacing**2
        return np.asarray(states + self.spec.dt * change, dtype=states.dtype)


class Counting(Solver):
    """Any solver, counting the states it advances and the calls it takes."""

    def __init__(self, solver: Solver) -> None:
        self.spec, self.solver, self.states, self.calls = solver.spec, solver, 0, 0

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.states += len(states)
        self.calls += 1
        return self.solver.step(states, params)


class LinearSolver(DifferentiableSolver):
    """`s' = A s`, one matrix for all states: its Jacobian is `A`."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix
        self.spec = SolverSpec(name="linear", state_shape=(1, len(matrix)), dt=1.0, dtype="float64")

    def step(self, states: Array, params: Array | None = None) -> Array:
        return np.asarray(states @ self.matrix.T)

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return states @ torch.from_numpy(self.matrix).T


class LogisticSolver(DifferentiableSolver):
    """A nonlinear map of neighbours, `s' = s + dt (r s (1 - s) + roll(s) - s)`, in numpy and in torch."""

    def __init__(self, points: int = POINTS) -> None:
        self.spec = SolverSpec(
            name="logistic", state_shape=(1, points), dt=0.1, dtype="float64", parameters=("rate",), parameter_units=("1",)
        )

    def step(self, states: Array, params: Array | None = None) -> Array:
        assert params is not None
        rate = params[:, :, None]
        return np.asarray(states + 0.1 * (rate * states * (1 - states) + np.roll(states, 1, -1) - states))

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        assert params is not None
        rate = params[:, :, None]
        return states + 0.1 * (rate * states * (1 - states) + torch.roll(states, 1, -1) - states)


class Network(nn.Module):
    """A corrector that ignores the scenario parameters: any network, called as correctors are."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        result: torch.Tensor = self.layers(states)
        return result


def conv_corrector(width: int = 3) -> Network:
    """Two convolutions on a line, tanh between them; small enough for CGE in milliseconds."""
    first = nn.Conv1d(1, width, 3, padding=1, padding_mode="circular")
    return Network(first, nn.Tanh(), nn.Conv1d(width, 1, 3, padding=1)).double()


def mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean()


def initial_states(batch: int, points: int = POINTS, dtype: str = "float64", seed: int = 0) -> Array:
    """`(B, 1, N)`: a wave and some noise."""
    x = np.linspace(0, 2 * np.pi, points, endpoint=False)
    noise = np.random.default_rng(seed).normal(size=(batch, 1, points))
    return np.asarray(np.sin(x) + 0.3 * noise, dtype=dtype)


def burgers_oracle(
    batch: int = 2, unroll: int = 3, solver: Solver | None = None, corrector: nn.Module | None = None, **options: Any
) -> tuple[LoopOracle, tuple[Any, ...]]:
    """An oracle of a corrected Burgers rollout, and a batch for it."""
    solver = Burgers() if solver is None else solver
    loop = SolverLoop(solver, conv_corrector() if corrector is None else corrector, unroll=unroll)
    references = 0.1 * np.random.default_rng(1).normal(size=(batch, unroll, 1, POINTS))
    return LoopOracle(loop, mse, **options), (initial_states(batch), None, references)


def model_oracle(model: nn.Module, inputs: torch.Tensor, **options: Any) -> tuple[ModelOracle, tuple[Any, ...]]:
    """An oracle of a plain network with random targets, and a batch for it."""
    with torch.no_grad():
        targets = torch.randn_like(copy.deepcopy(model)(inputs))
    return ModelOracle(model, mse, **options), (inputs, targets)


def autograd(oracle: Any, batch: Any) -> NamedTensors:
    """torch's own gradient of an oracle's loss, on a copy: autograd's forward pass may update batch-norm statistics."""
    oracle = copy.deepcopy(oracle)
    parameters = trainable(oracle.model)
    loss, _ = oracle.differentiable_loss(batch)
    grads = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, grads, strict=True))


def relative_error(grads: NamedTensors, expected: NamedTensors) -> float:
    """`|g - e| / |e|` over all parameters together."""
    assert set(grads) == set(expected)
    difference = sum(float((grads[name] - expected[name]).square().sum()) for name in expected)
    return float((difference / sum(float(e.square().sum()) for e in expected.values())) ** 0.5)


def snapshot(model: nn.Module) -> NamedTensors:
    """Copies of all weights and buffers."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_untouched(model: nn.Module, before: NamedTensors) -> None:
    after = snapshot(model)
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before), "a query changed the network"


@contextmanager
def fallback_allowed() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings of networks that are queried by whole forward passes; any other warning is still an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.filterwarnings("always", message=".* is queried by whole forward passes, one at a time, which is slower")
        yield caught


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Repeated(nn.Module):
    """One linear layer and one convolution, each used twice: their weights are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv1d(2, 2, 3, padding=1), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(torch.tanh(self.conv(x)))
        result: torch.Tensor = self.linear(torch.tanh(self.linear(x)))
        return result


class TiedAutoencoder(nn.Module):
    """`tanh(x W^T + b) W`: the weight's second use is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.encoder(x)) @ self.encoder.weight.mT.mT


class Scalar(nn.Module):
    """A parameter of shape `()`, outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gain = nn.Linear(4, 2), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.gain * torch.tanh(self.linear(x))
        return result


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


#: name: (network, shape of one batch of inputs)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: sequence(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 1, 3)), (2, 2, 8)),
    "conv2d": (lambda: sequence(nn.Conv2d(2, 3, (3, 2)), nn.Tanh(), nn.Conv2d(3, 1, 3, bias=False)), (2, 2, 6, 6)),
    "conv3d": (lambda: sequence(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Conv3d(2, 1, 2)), (2, 1, 4, 3, 4)),
    "strided": (
        lambda: sequence(nn.Conv2d(2, 3, 3, stride=(2, 1), padding=1), nn.Tanh(), nn.Conv2d(3, 1, 3)),
        (2, 2, 6, 5),
    ),
    "dilated": (lambda: sequence(nn.Conv2d(2, 2, 3, dilation=2, padding="same"), nn.Tanh()), (2, 2, 6, 6)),
    "grouped": (lambda: sequence(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), nn.Conv2d(6, 3, 1, groups=3)), (2, 4, 5, 5)),
    "depthwise": (lambda: sequence(nn.Conv2d(3, 6, 3, groups=3), nn.Tanh(), nn.Conv2d(6, 2, 1)), (2, 3, 5, 5)),
    "circular": (lambda: sequence(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Tanh()), (2, 2, 5, 5)),
    "linear": (lambda: sequence(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), (3, 5)),
    "linear on sequences": (lambda: sequence(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)), (3, 2, 5)),
    "flattened": (lambda: sequence(nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)), (3, 1, 6)),
    "shared weights": (Repeated, (2, 2, 6)),
    "one coordinate": (lambda: sequence(nn.Linear(1, 1, bias=False), nn.Tanh()), (3, 1)),
    "layer norm": (lambda: sequence(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)), (3, 4)),
    "transposed": (
        lambda: sequence(nn.ConvTranspose1d(2, 3, 3), nn.Tanh(), nn.Conv1d(3, 1, 3)),
        (2, 2, 5),
    ),
    "batch norm": (
        lambda: sequence(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Conv1d(3, 1, 3)),
        (4, 2, 8),
    ),
    "batch norm, fixed": (
        lambda: sequence(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Conv1d(3, 1, 3)).eval(),
        (4, 2, 8),
    ),
    "tied": (TiedAutoencoder, (3, 5)),
    "scalar": (Scalar, (3, 4)),
}


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in float64, and inputs for it."""
    make, shape = NETWORKS[name]
    return make().double(), torch.randn(shape, dtype=torch.float64)


class Bias(nn.Module):
    """A correction that is the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.full((1, 8), 0.1, dtype=torch.float64))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return self.b.expand_as(states)


class FailingBurgers(Burgers):
    """Burgers whose states beyond a limit fail."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def step(self, states: Array, params: Array | None = None) -> Array:
        return _fail_beyond(self.limit, states, super().step(states, params))


class FailingDecay(Solver):
    """Decay, `s' = 0.9 s`, whose states beyond a limit fail."""

    def __init__(self, limit: float) -> None:
        self.spec, self.limit = SolverSpec(name="decay", state_shape=(1, 8), dt=0.1, dtype="float64"), limit

    def step(self, states: Array, params: Array | None = None) -> Array:
        return _fail_beyond(self.limit, states, 0.9 * states)


def _fail_beyond(limit: float, states: Array, advanced: Array) -> Array:
    bad = np.flatnonzero(np.abs(states).max(axis=(1, 2)) > limit)
    if len(bad):
        raise StatesFailedError({int(i): ExitCodeError("it ended.") for i in bad}, advanced)
    return advanced


class DifferentiableBurgers(Burgers, DifferentiableSolver):
    """The same step in torch."""

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        spacing, viscosity = 2 * np.pi / states.shape[-1], 0.05
        flux = 0.5 * states.clamp(min=0) ** 2 + 0.5 * torch.roll(states, -1, -1).clamp(max=0) ** 2
        diffusion = torch.roll(states, -1, -1) - 2 * states + torch.roll(states, 1, -1)
        return states + self.spec.dt * (viscosity * diffusion / spacing**2 - (flux - torch.roll(flux, 1, -1)) / spacing)
