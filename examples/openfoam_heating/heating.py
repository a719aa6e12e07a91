"""A heated cavity: the true temperature, a solver that has it, and a temperature to be trained until it does the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

import deepzero_sim as dz
from deepzero_sim.common.components import Component
from deepzero_sim.solver.build import build_solver

#: Settings of the program, whose first line of the recipe says how it is used.
SETTINGS = Path("examples/openfoam_heating/solver.yaml")

#: Centre and radius, in m, and height, in K, of a warm and a cold spot.
SPOTS = (((0.3, 0.35), 0.16, 12.0), ((0.7, 0.6), 0.14, -9.0))

#: Temperature at which the fluid is not lifted, K, and the unit that a trained field counts differences from it in.
REST, UNIT = 300.0, 10.0


def heating(cells: int) -> np.ndarray:
    """Return the true temperature in K, [x, y], `(n, n)`."""
    places = (np.arange(cells) + 0.5) / cells
    x, y = np.meshgrid(places, places, indexing="ij")
    return REST + sum(height * np.exp(-((x - a) ** 2 + (y - b) ** 2) / radius**2) for (a, b), radius, height in SPOTS)


class Heated(dz.Solver):
    """The program with the true temperature at the beginning of every step: it makes the data."""

    def __init__(self) -> None:
        self.within = build_solver(Component(**yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["solver"]))
        self.spec = replace(self.within.spec, inputs=())

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        temperature = heating(states.shape[-1]).astype(states.dtype)
        inputs = np.broadcast_to(temperature, (len(states), 1, *temperature.shape)).copy()
        return self.within.step(states, params, inputs)


def restrict(states: np.ndarray, spec: dz.SolverSpec) -> np.ndarray:
    """Return the states as they are: data and solver have the same mesh."""
    return states


class Field(nn.Module):
    """A temperature for every cell, the same at all times and in all simulations: `w`, in units of 10 K, from 300 K on."""

    def __init__(self, spec: dz.SolverSpec) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(spec.input_shape))

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return self.w.expand(len(states), *self.w.shape)


def felt(temperature: np.ndarray) -> np.ndarray:
    """Return what a fluid in a closed box feels of a temperature `(n, n)`: its differences from the mean of each height.

    A temperature that depends on the height alone makes a pressure and no flow.
    """
    return temperature - temperature.mean(axis=0, keepdims=True)
