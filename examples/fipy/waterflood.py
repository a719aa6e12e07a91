"""Water that drives oil through rock, by FiPy: the Buckley-Leverett equation on a coarse mesh and on a fine one.

    S_t + f(S)_x = D S_xx,  f(S) = S^2 / (S^2 + (1 - S)^2 / M),  periodic

S is the share of the pores that water fills, f its share of the flow, and M how much more easily water flows than oil does.
Finite volumes, first-order upwind, implicit in time with the speed f(S) / S taken at the start of a step.
"""

import os
from typing import Any, NamedTuple

os.environ.setdefault("FIPY_SOLVERS", "scipy")  # whatever else is installed
import fipy
import numpy as np

import deepzero_sim as dz

DISPERSION = 1e-4


class Parts(NamedTuple):
    """Objects of FiPy, made once a process: from step to step only the values of `saturation` and `mobility` change."""

    saturation: fipy.CellVariable
    mobility: fipy.Variable
    equation: Any
    linear: Any


class WaterFlood(dz.Solver):
    """Solver of one step of 0.01 pore volumes on `cells` finite volumes, taken as `substeps`."""

    def __init__(self, cells: int = 64, substeps: int = 1) -> None:
        self.cells, self.substeps = cells, substeps
        self._parts: Parts | None = None
        self.spec = dz.SolverSpec(
            name="waterflood",
            state_shape=(1, cells),
            dt=0.01,
            dtype="float64",
            channels=("saturation",),
            channel_units=("1",),
            parameters=("mobility_ratio",),
            parameter_units=("1",),
            axes=("x",),
            spacing=(1 / cells,),
            offsets=((0.5,),),
            thread_safe=False,  # FiPy's variables are one for all
        )

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        return np.stack([self.advance(state[0], row[0])[None] for state, row in zip(states, params, strict=True)])

    def advance(self, saturation: np.ndarray, mobility: float) -> np.ndarray:
        """Advance one state, `(cells,)`, by one step."""
        parts = self._parts = self._parts or self._make_parts()
        parts.saturation.value = saturation
        parts.mobility.value = mobility
        for _ in range(self.substeps):
            parts.equation.solve(var=parts.saturation, dt=self.spec.dt / self.substeps, solver=parts.linear)
        return np.array(parts.saturation.value)

    def _make_parts(self) -> Parts:
        mesh = fipy.PeriodicGrid1D(nx=self.cells, dx=1 / self.cells)
        saturation, mobility = fipy.CellVariable(mesh=mesh), fipy.Variable(value=1.0)
        speed = saturation / (saturation**2 + (1 - saturation) ** 2 / mobility)
        convection = fipy.UpwindConvectionTerm(coeff=speed.faceValue * [[1.0]])
        equation = fipy.TransientTerm() + convection == fipy.DiffusionTerm(coeff=DISPERSION)
        return Parts(saturation, mobility, equation, fipy.LinearLUSolver())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None}  # every process makes its own


def initial(spec: dz.SolverSpec, params: np.ndarray) -> np.ndarray:
    """Draw slugs of water in oil: `(B, 1)` mobility ratios to `(B, 1, cells)`. Every ratio has slugs of its own."""
    x = spec.coordinates(0, 0)
    return np.stack([_slugs(x, float(row[0]))[None] for row in params]).astype(spec.dtype)


def _slugs(x: np.ndarray, mobility: float) -> np.ndarray:
    random = np.random.default_rng(round(1e6 * mobility))
    saturation = np.full_like(x, 0.1)
    for centre, width, height in zip(random.random(3), random.uniform(0.03, 0.12, 3), random.uniform(0.3, 0.8, 3), strict=True):
        distance = np.abs((x - centre + 0.5) % 1 - 0.5)
        saturation = np.maximum(saturation, height * np.exp(-((distance / width) ** 4)))
    return saturation


def restrict(states: np.ndarray, spec: dz.SolverSpec) -> np.ndarray:
    """Average over the cells that lie in each cell of the coarse mesh."""
    return states.reshape(len(states), *spec.state_shape, -1).mean(axis=-1)
