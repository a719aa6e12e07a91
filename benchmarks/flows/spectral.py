"""Periodic flows by exponax: pseudo-spectral exponential time differencing, coarse and fine (Cox and Matthews 2002).

The fine solver has a grid several times finer and takes several smaller steps for each step of the coarse one. Frames are cut
to the coarse grid's waves. 3-D Burgers is in conservative form: jax 0.10 compiles the convective one wrongly from 24 points
along an axis on, which `tests/benchmarks/flows/test_solvers.py` holds all flows against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, final

import exponax as ex
import jax
import jax.numpy as jnp
import numpy as np

from deepzero_sim.benchmarks.flows.jax_solver import Advance, JaxSolver
from deepzero_sim.common.requirements import is_count, require, require_known
from deepzero_sim.common.types import Array
from deepzero_sim.solver.spec import SolverSpec

#: Maker of a stepper: of the domain's length, a number of points along each axis and a length of a step.
MakeStepper = Callable[[float, int, float], Any]

_CIRCLE = 2 * float(np.pi)

#: Suffix of a fine solver's name.
FINE = "-fine"


@dataclass(frozen=True)
class Spectral:
    """Discretisation of a flow.

    Args:
        stepper: Maker of exponax's stepper.
        extent: Length of the domain along each axis.
        points: Points of the coarse grid along each axis.
        dt: Length of a step.
        finer: Ratio of the two grids' points.
        substeps: Steps of the fine solver for one of the coarse one.
        axes: Names of the axes.
        channels: Names of the channels.
        cutoff: Largest wave number of the initial states, which are random Fourier series.
        amplitude: Largest value of an initial state.
        mean_free: True if every channel's mean is taken away after a step: in the integral form of Kuramoto and Sivashinsky's
            equation it falls for ever, and nothing depends on it.
    """

    stepper: MakeStepper
    extent: float
    points: int
    dt: float
    finer: int
    substeps: int
    axes: tuple[str, ...]
    channels: tuple[str, ...]
    cutoff: int = 4
    amplitude: float = 1.0
    mean_free: bool = False


_X, _XY, _XYZ = ("x",), ("x", "y"), ("x", "y", "z")
_VELOCITY = ("velocity_x", "velocity_y", "velocity_z")
_S = ex.stepper

#: Discretisations by the name of the flow.
SPECTRAL: dict[str, Spectral] = {
    "burgers-1d": Spectral(
        lambda length, n, dt: _S.Burgers(1, length, n, dt, diffusivity=0.005), 1.0, 64, 0.01, 4, 4, _X, _VELOCITY[:1]
    ),
    "korteweg-de-vries-1d": Spectral(
        lambda length, n, dt: _S.KortewegDeVries(1, length, n, dt), 20.0, 64, 0.02, 4, 4, _X, ("elevation",)
    ),
    "kuramoto-sivashinsky-1d": Spectral(
        lambda length, n, dt: _S.KuramotoSivashinskyConservative(1, length, n, dt), 60.0, 64, 0.25, 4, 4, _X, ("slope",)
    ),
    "kuramoto-sivashinsky-2d": Spectral(
        lambda length, n, dt: _S.KuramotoSivashinsky(2, length, n, dt),
        30.0, 32, 0.1, 2, 4, _XY, ("height",), cutoff=3, mean_free=True,
    ),
    "navier-stokes-2d": Spectral(
        lambda length, n, dt: _S.NavierStokesVorticity(2, length, n, dt, diffusivity=0.003),
        _CIRCLE, 32, 0.1, 3, 4, _XY, ("vorticity",), amplitude=3.0,
    ),
    "kolmogorov-2d": Spectral(
        lambda length, n, dt: _S.KolmogorovFlowVorticity(2, length, n, dt, diffusivity=0.005, injection_scale=0.2),
        _CIRCLE, 32, 0.1, 2, 4, _XY, ("vorticity",), amplitude=2.0,
    ),
    "burgers-2d": Spectral(
        lambda length, n, dt: _S.Burgers(2, length, n, dt, diffusivity=0.005), 1.0, 32, 0.02, 3, 4, _XY, _VELOCITY[:2], cutoff=3
    ),
    "gray-scott-2d": Spectral(
        lambda length, n, dt: _S.reaction.GrayScott(2, length, n, dt), 0.8, 32, 2.5, 2, 4, _XY, ("substrate", "activator")
    ),
    "burgers-3d": Spectral(
        lambda length, n, dt: _S.Burgers(3, length, n, dt, diffusivity=0.01, conservative=True),
        1.0, 16, 0.02, 2, 2, _XYZ, _VELOCITY, cutoff=2,
    ),
}  # fmt: skip


@final
class SpectralSolver(JaxSolver):
    """Solver of a periodic flow.

    Args:
        flow: Name of the flow, one of :data:`SPECTRAL`.
        fine: True for the reference, on the finer grid.
        larger: Ratio of the domain's length to the flow's: as many times the points along each axis, of the same size, hold
            waves of the same lengths in their initial states.

    Raises:
        ConfigError: There is no such flow.
    """

    def __init__(self, flow: str, fine: bool = False, larger: int = 1) -> None:
        require_known([flow], list(SPECTRAL), "flow")
        require(is_count(larger), "larger must be a positive whole number", larger)
        self._settings = (flow, fine, larger)
        given = SPECTRAL[flow]
        points = larger * given.points * (given.finer if fine else 1)
        spec = SolverSpec(
            name=f"{flow}{FINE if fine else ''}",
            state_shape=(len(given.channels), *[points] * len(given.axes)),
            dt=given.dt,
            channels=given.channels,
            axes=given.axes,
            spacing=(larger * given.extent / points,) * len(given.axes),
            thread_safe=True,
        )
        super().__init__(spec, _advance_of(flow, fine, larger))

    def __reduce__(self) -> tuple[Any, ...]:
        return SpectralSolver, self._settings


@cache
def _advance_of(flow: str, fine: bool, larger: int) -> Advance:
    """Return the step of a flow's state in jax, always the same function."""
    given = SPECTRAL[flow]
    points, substeps = (given.points * given.finer, given.substeps) if fine else (given.points, 1)
    stepper = given.stepper(larger * given.extent, larger * points, given.dt / substeps)
    repeated = ex.RepeatedStepper(stepper, substeps) if substeps > 1 else stepper

    def advance(state: Any) -> Any:
        advanced = repeated(state)
        return advanced - advanced.mean(axis=tuple(range(1, advanced.ndim)), keepdims=True) if given.mean_free else advanced

    return advance


def initial(spec: SolverSpec, params: Array, seed: int) -> Array:
    """Make initial states `(B, C, *N)` of a flow: random Fourier series or, of Gray and Scott's reaction, blobs.

    Args:
        spec: Spec of a spectral solver.
        params: Scenario parameters, `(B, 0)`.
        seed: Seed of the series.
    """
    flow = spec.name.removesuffix(FINE)
    keys = jax.random.split(jax.random.PRNGKey(seed), len(params))
    make = _blobs if flow == "gray-scott-2d" else partial(_fourier_series, SPECTRAL[flow], _larger(spec, SPECTRAL[flow]))
    return np.stack([np.asarray(make(spec.state_shape[1], key), dtype=spec.dtype) for key in keys])


def _larger(spec: SolverSpec, given: Spectral) -> int:
    assert spec.spacing is not None
    return round(spec.spacing[0] * spec.state_shape[1] / given.extent)


def _fourier_series(given: Spectral, larger: int, points: int, key: Any) -> Any:
    series = ex.ic.RandomTruncatedFourierSeries(len(given.axes), cutoff=larger * given.cutoff, max_one=True)
    keys = jax.random.split(key, len(given.channels))
    made = jnp.concatenate([series(points, key=one) for one in keys])
    return given.amplitude * (_without_longer_waves(made, larger) if larger > 1 else made)


def _without_longer_waves(values: Any, larger: int) -> Any:
    """Take away waves longer than the flow's own domain, `(C, *N)`, which would make its fluid faster; scale to 1 again."""
    axes = tuple(range(1, values.ndim))
    points = values.shape[1]
    squares = jnp.zeros((1,) * values.ndim)
    for axis in axes:
        waves = points * jnp.fft.fftfreq(points)
        squares = squares + jnp.expand_dims(waves, [other for other in range(values.ndim) if other != axis]) ** 2
    filtered = jnp.fft.ifftn(jnp.where(squares < larger**2, 0, jnp.fft.fftn(values, axes=axes)), axes=axes).real
    return filtered / jnp.abs(filtered).max(axis=axes, keepdims=True)


#: Number of blobs, and their width as a share of the domain.
_BLOBS, _WIDTH = 4, 0.08


def _blobs(points: int, key: Any) -> Any:
    """Make a substrate of 1 and no activator but for some blobs, where there is 0.25 of it and half of the substrate."""
    axis = jnp.arange(points) / points
    centres = jax.random.uniform(key, (_BLOBS, 2))
    away = [(axis[None] - centres[:, a, None] + 0.5) % 1 - 0.5 for a in range(2)]  # the domain is periodic
    squares = away[0][:, :, None] ** 2 + away[1][:, None, :] ** 2
    blob = jnp.exp(-squares / (2 * _WIDTH**2)).max(axis=0)
    return jnp.stack([1 - 0.5 * blob, 0.25 * blob])
