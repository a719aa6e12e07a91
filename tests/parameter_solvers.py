"""A solver whose scenario parameters can be calibrated, with its differentiable twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepzero_sim.common.settings import read
from deepzero_sim.common.types import Array
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.settings import TrainSettings


def _roll(values: Any, shift: int) -> Any:
    return torch.roll(values, shift, -1) if isinstance(values, torch.Tensor) else np.roll(values, shift, -1)


class Transport(DifferentiableSolver):
    """Burgers' equation with a speed and a viscosity: `u_t + speed (u^2/2)_x = viscosity u_xx` on a periodic line."""

    def __init__(self, points: int = 16, dtype: str = "float64", deterministic: bool = True) -> None:
        self.spec = SolverSpec(
            name="transport",
            state_shape=(1, points),
            dt=0.05,
            dtype=dtype,
            channels=("u",),
            parameters=("speed", "viscosity"),
            deterministic=deterministic,
            stencil=1,
        )

    def advance(self, states: Any, params: Any) -> Any:
        spacing, dt = 2 * np.pi / states.shape[-1], self.spec.dt
        speed, viscosity = params[:, :1, None], params[:, 1:, None]
        next_ = _roll(states, -1)
        flux = speed * (states**2 + next_**2) / 4 - viscosity * (next_ - states) / spacing
        return states - dt / spacing * (flux - _roll(flux, 1))

    def step(self, states: Array, params: Array | None = None) -> Array:
        assert params is not None and not states.flags.writeable
        return np.asarray(self.advance(states, params), dtype=states.dtype)

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        result: torch.Tensor = self.advance(states, params)
        return result


def simulate(solver: Transport, params: Array, frames: int = 12, seed: int = 0) -> Array:
    """Return frames `(S, T, 1, N)` of simulations from random waves, with their parameters `(S, 2)`."""
    points = solver.spec.state_shape[1]
    x, random = 2 * np.pi * np.arange(points) / points, np.random.default_rng(seed)
    sizes, phases = random.normal(size=(3, len(params), 1)), 2 * np.pi * random.random((3, len(params), 1))
    states = sum(sizes[k] * np.sin((k + 1) * x + phases[k]) / (k + 1) for k in range(3))[:, None].astype(solver.spec.dtype)
    every = [states]
    for _ in range(frames - 1):
        every.append(np.asarray(solver.advance(every[-1], params.astype(solver.spec.dtype))))
    return np.stack(every, axis=1)


def calibration(data: Any, run: Path, **more: Any) -> TrainSettings:
    """Return settings of a training of both parameters of :class:`Transport` alone, in single threads.

    Args:
        data: Training data.
        run: Run folder.
        more: Other settings.
    """
    solver = {"name": "parameter_solvers.Transport"}
    given = {
        "solver": solver,
        "differentiable_solver": solver,
        "network": {"name": "none"},
        "train_params": {"speed": {}, "viscosity": {"least": 0.0}},
        "vjp": {"name": "Coloured"},
        "train_data": data,
        "run": run,
        "updates": 120,
        "optimiser": {"name": "torch.optim.Adam", "args": {"lr": 0.01}},
        "workers": {"backend": "serial"},
        "tensorboard": False,
    }
    made: TrainSettings = read(TrainSettings, {**given, **more})
    return made
