"""Functions and classes that the recipes need besides the program: initial states, means over cells, a twin, a constant."""

from __future__ import annotations

import numpy as np
import torch

import deepzero_sim as dz

#: Length of a step, viscosity and substeps of the program on coarse cells, which the twin takes, too.
DT, NU, SUBSTEPS = 0.025, 0.005, 2

#: Number of waves of an initial state, the longest ones that fit.
WAVES = 5


def initial(spec: dz.SolverSpec, params: np.ndarray, seed: int) -> np.ndarray:
    """Draw long waves with random heights and phases: states `(1, 1, N)`."""
    places = (np.arange(spec.state_shape[1]) + 0.5) / spec.state_shape[1]
    random = np.random.default_rng(seed)
    numbers = np.arange(1, WAVES + 1)[:, None]
    heights, phases = random.normal(size=(WAVES, 1)) / np.sqrt(numbers), 2 * np.pi * random.random((WAVES, 1))
    return np.asarray((heights * np.cos(2 * np.pi * numbers * places + phases)).sum(0), dtype=spec.dtype)[None, None]


def restrict(states: np.ndarray, spec: dz.SolverSpec) -> np.ndarray:
    """Average over each of the coarse cells, which hold a whole number of fine ones: states `(B, 1, N)`."""
    return np.asarray(states.reshape(len(states), *spec.state_shape, -1).mean(-1), dtype=spec.dtype)


class Twin(dz.DifferentiableSolver):
    """The program's step on `cells` cells once more, in torch: for FO-SOL, which needs the exact gradient."""

    def __init__(self, cells: int = 64) -> None:
        self.spec = dz.SolverSpec(
            name="burgers",
            state_shape=(1, cells),
            dt=DT,
            dtype="float64",
            channels=("velocity",),
            axes=("x",),
            inputs=(dz.InputField("eddy_viscosity", value=0.02, scale=0.02, least=0.0, most=0.3),),
        )

    def differentiable_step(
        self, states: torch.Tensor, params: torch.Tensor | None = None, inputs: torch.Tensor | None = None
    ) -> torch.Tensor:
        h = DT / SUBSTEPS
        for _ in range(SUBSTEPS):
            rate = _rate(states, inputs)
            states = states + h / 2 * (rate + _rate(states + h * rate, inputs))
        return states

    def step(self, states: np.ndarray, params: np.ndarray | None = None, inputs: np.ndarray | None = None) -> np.ndarray:
        with torch.no_grad():
            return self.differentiable_step(torch.tensor(states), None, torch.tensor(inputs)).numpy()


def _rate(u: torch.Tensor, eddy: torch.Tensor) -> torch.Tensor:
    """Return `u_t` from the fluxes through both faces of every cell."""
    dx = 2 * torch.pi / u.shape[-1]
    left = torch.roll(u, 1, -1)
    viscosity = NU + (torch.roll(eddy, 1, -1) + eddy) / 2
    flux = (left**2 + left * u + u**2) / 6 - viscosity * (u - left) / dx
    return (flux - torch.roll(flux, -1, -1)) / dx


class Constant(torch.nn.Module):
    """One number for each input at every point: the best constant viscosity, to compare with."""

    def __init__(self, spec: dz.SolverSpec) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(len(spec.inputs)))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        field = states.new_ones(len(states), 1, *states.shape[2:])
        return self.values.reshape(1, -1, *[1] * (states.dim() - 2)) * field
