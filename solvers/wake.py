"""The unsteady wake of a cylinder in plain numpy: fast, and opaque by nature.

Incompressible flow past a circle in a channel open on all sides, as in Um et al., "Solver-in-the-Loop"
(NeurIPS 2020, arXiv 2007.00016). One step is

    v* = v + dt nu laplace(v)                      explicit diffusion
    v*_y = 1 on rows 0..1, first and last column   inflow and free stream
    v** (x) = v*(x - dt v*(x))                     semi-Lagrangian advection, Euler backtrace, linear interpolation
    v' = v** - grad p,  laplace(p) = div(v**)      pressure projection, p = 0 outside, v = 0 on the obstacle's faces

on a staggered (marker-and-cell) grid: `v_y` lives on the faces between rows, `v_x` on the faces between columns. Of a solver
that is forced, `v** (x) = v*(x - dt v*(x)) + dt f(x)`, with a forcing `f` of each face that a network inside may provide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.input_fields import InputField
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_call

LENGTH, WIDTH = 200.0, 100.0  # domain along the flow (y) and across it (x)
CENTRE, RADIUS = (50.0, 50.0), 10.0  # the circle: (y, x) of its centre

#: Reynolds numbers of Um et al.: their code's number times 10 / 16384.
REYNOLDS_PER_CODE = 10.0 / 16384.0
TRAIN_REYNOLDS = tuple(code * REYNOLDS_PER_CODE for code in (160e3, 320e3, 640e3, 1280e3, 2560e3, 5120e3))
TEST_REYNOLDS = tuple(code * REYNOLDS_PER_CODE for code in (240e3, 480e3, 960e3, 1920e3, 3840e3))


def viscosity(reynolds: Any) -> Any:
    """Kinematic viscosity in domain units, `nu = 1e4 / Re_code` with `Re = Re_code * 10 / 16384` (Um et al., their code)."""
    return 1e4 * REYNOLDS_PER_CODE / reynolds


#: Size of a forcing that matters, in velocities a unit of time: some percent of the inflow.
FORCING = 0.05

#: Most points advanced at once: larger temporaries leave the cache, and the allocator returns their pages after every use.
BLOCK_POINTS = 16384


@dataclass(frozen=True)
class WakeGrid:
    """The grid of a wake solver: `2 * resolution` by `resolution` square cells, and the obstacle on it.

    Args:
        resolution: Number of cells across the flow; 32 is the coarse grid, 128 the reference.
    """

    resolution: int

    def __post_init__(self) -> None:
        require_that(
            self.resolution >= 8,
            f"a wake solver needs a resolution of at least 8 cells across the flow, not {self.resolution}: "
            "a coarser grid does not see the obstacle.",
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells `(H, W)` along the flow and across it."""
        return 2 * self.resolution, self.resolution

    @property
    def spacing(self) -> float:
        """Side of a cell, in units of the domain."""
        return WIDTH / self.resolution

    def fluid(self) -> NDArray[np.bool_]:
        """Mask of cells `(H, W)`: True for fluid, False for those whose centre lies in the circle (a hard mask)."""
        y, x = ((np.arange(n) + 0.5) * self.spacing for n in self.shape)
        return (y[:, None] - CENTRE[0]) ** 2 + (x[None, :] - CENTRE[1]) ** 2 > RADIUS**2

    def open_faces(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Masks of faces `(H+1, W)` and `(H, W+1)`: True for those that touch no cell of the obstacle."""
        padded = np.pad(self.fluid(), 1, constant_values=True)
        return padded[1:, 1:-1] & padded[:-1, 1:-1], padded[1:-1, 1:] & padded[1:-1, :-1]

    def spec(self, name: str, dtype: str, forced: bool = False) -> SolverSpec:
        """Spec of both wake solvers: `v_y` and `v_x` in one padded array `(2, H+1, W+1)`, and a forcing of each, likewise."""
        height, width = self.shape
        faces = {"forcing_y": (height + 1, width), "forcing_x": (height, width + 1)}
        inputs = [InputField(of, "length/time^2", scale=FORCING, shape=shape) for of, shape in faces.items()]
        mask = np.ones((2, height + 1, width + 1), dtype=bool)
        mask[0, :, width] = False
        mask[1, height, :] = False
        return SolverSpec(
            name=name,
            state_shape=(2, height + 1, width + 1),
            dt=1.0,
            dtype=dtype,
            channels=("velocity_y", "velocity_x"),
            channel_units=("length/time", "length/time"),
            parameters=("reynolds",),
            parameter_units=("1",),
            axes=("y", "x"),
            spacing=(self.spacing, self.spacing),
            offsets=((0.0, 0.5), (0.5, 0.0)),
            mask=mask,
            inputs=tuple(inputs) if forced else (),
        )


def initial_state(spec: SolverSpec, params: Array) -> Array:
    """Make states `(B, 2, H+1, W+1)`: uniform flow along y, and a small block of cross-flow that triggers shedding.

    Args:
        spec: Spec of a wake solver.
        params: Reynolds numbers, `(B, 1)`; the states do not depend on them.
    """
    height, width = (points - 1 for points in spec.state_shape[1:])
    states = np.zeros((len(params), *spec.state_shape), dtype=spec.dtype)
    states[:, 0, :, :width] = 1.0
    states[:, 1, height // 2 + 10 : height // 2 + 20, width // 2 - 2 : width // 2 + 2] = 1.0
    return states


def restrict(states: Array, spec: SolverSpec) -> Array:
    """Restrict fine states to the grid of a coarser wake solver, in its dtype, by :func:`downsample`."""
    return downsample(states, (states.shape[2] - 1) // (spec.state_shape[1] - 1)).astype(spec.dtype)


def downsample(states: Array, factor: int) -> Array:
    """Restrict staggered states to a grid `factor` times coarser, conserving the flux through its faces.

    A coarse face takes the mean of the `factor` fine faces that it consists of.

    Args:
        states: Fine states `(B, 2, H+1, W+1)`.
        factor: Whole ratio of the two resolutions.

    Returns:
        Coarse states `(B, 2, H/factor+1, W/factor+1)`.

    Raises:
        ConfigError: The factor does not divide the numbers of cells.
    """
    batch, _, rows, columns = states.shape
    height, width = rows - 1, columns - 1
    require_that(
        factor >= 1 and height % factor == 0 and width % factor == 0,
        f"cannot downsample {height} x {width} cells by {factor}: it must divide both.",
    )
    h, w = height // factor, width // factor
    out = np.zeros((batch, 2, h + 1, w + 1), dtype=states.dtype)
    out[:, 0, :, :w] = states[:, 0, ::factor, :width].reshape(batch, h + 1, w, factor).mean(axis=3)
    out[:, 1, :h, :] = states[:, 1, :height, ::factor].reshape(batch, h, factor, w + 1).mean(axis=2)
    return out


class WakeFlow(Solver):
    """Wake solver in numpy: float32 or float64, any resolution, prefactored pressure.

    Args:
        resolution: Number of cells across the flow; the grid has `2 * resolution` by `resolution` cells.
        dtype: Type of the states, ``"float32"`` or ``"float64"``.
        forced: True for a step that reads a forcing of both velocities.

    Its states are `(B, 2, 2*resolution+1, resolution+1)`, its one parameter is the Reynolds number of Um et al.
    The explicit diffusion is stable while `nu dt / dx^2 <= 1/4`, that is `Re >= 40 * (resolution / 128)^2`; less is refused.
    """

    def __init__(self, resolution: int = 32, dtype: str = "float32", forced: bool = False) -> None:
        self._arguments = resolution, dtype, forced
        self.grid = WakeGrid(resolution)
        self.spec = self.grid.spec("wake", dtype, forced)
        self._open_y, self._open_x = (faces.astype(dtype) for faces in self.grid.open_faces())
        self._pressure = PressureSolve(self.grid.fluid(), dtype)
        self._block = max(1, BLOCK_POINTS // self.grid.fluid().size)
        self._advect_y = _SemiLagrangian(self._open_y.shape, dtype)
        self._advect_x = _SemiLagrangian(self._open_x.shape, dtype)

    def __reduce__(self) -> tuple[type[WakeFlow], tuple[int, str, bool]]:
        return WakeFlow, self._arguments  # a worker factors the system anew: faster than sending the matrices

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        if params is not None:  # the next line says what is missing in the wake's own words
            check_call(self.spec, states, params, inputs)
        number = diffusion_number(self.grid, params).astype(states.dtype)
        out = np.zeros(states.shape, dtype=states.dtype)
        for start in range(0, len(states), self._block):
            block = slice(start, start + self._block)
            self._step_block(states[block], number[block], None if inputs is None else inputs[block], out[block])
        return out

    def _step_block(self, states: Array, number: Array, forcing: Array | None, out: Array) -> None:
        v_y = _diffuse(states[:, 0, :, :-1], number)
        v_x = _diffuse(states[:, 1, :-1, :], number)
        v_y[:, :2, :] = 1.0
        v_y[:, :, 0] = 1.0
        v_y[:, :, -1] = 1.0
        courant = self.spec.dt / self.grid.spacing
        u_y, u_x = courant * v_y, courant * v_x
        v_y = self._advect_y(v_y, u_y, _mean_of_faces(u_x))
        v_x = self._advect_x(v_x, _mean_of_faces(u_y.swapaxes(1, 2)).swapaxes(1, 2), u_x)
        if forcing is not None:
            v_y += self.spec.dt * forcing[:, 0, :, :-1]
            v_x += self.spec.dt * forcing[:, 1, :-1, :]
        v_y *= self._open_y
        v_x *= self._open_x
        self._project(v_y, v_x, out)

    def _project(self, v_y: Array, v_x: Array, out: Array) -> None:
        """Subtract the pressure gradient that takes the divergence away; `p = 0` outside the domain."""
        batch, height, width = len(v_y), *self.grid.shape
        divergence = v_y[:, 1:] - v_y[:, :-1]
        divergence += v_x[:, :, 1:]
        divergence -= v_x[:, :, :-1]
        pressure = np.zeros((batch, height + 2, width + 2), dtype=v_y.dtype)
        pressure[:, 1:-1, 1:-1] = self._pressure(divergence)
        for result, velocity, faces, ahead, behind in (
            (out[:, 0, :, :-1], v_y, self._open_y, pressure[:, 1:, 1:-1], pressure[:, :-1, 1:-1]),
            (out[:, 1, :-1, :], v_x, self._open_x, pressure[:, 1:-1, 1:], pressure[:, 1:-1, :-1]),
        ):
            np.subtract(ahead, behind, out=result)
            np.multiply(result, faces, out=result)
            np.subtract(velocity, result, out=result)


def diffusion_number(grid: WakeGrid, params: Array | None) -> Array:
    """Compute `nu dt / dx^2` of each state, shape `(B, 1, 1)`, in cell units (`dt = 1`).

    Raises:
        ConfigError: There are no Reynolds numbers, or the explicit diffusion would be unstable with them.
    """
    if params is None:
        raise ConfigError("the wake solver needs the Reynolds numbers as params of shape (B, 1), got None: pass them.")
    reynolds = params[:, 0].astype(np.float64)
    lowest = 4.0 * viscosity(1.0) / grid.spacing**2
    if not (reynolds >= lowest).all():
        raise ConfigError(
            f"the wake solver at resolution {grid.resolution} needs Reynolds numbers of at least {lowest:.3g} "
            f"(explicit diffusion is unstable below), got {reynolds.min():.6g}: raise it or use a coarser grid."
        )
    number: Array = (viscosity(reynolds) / grid.spacing**2)[:, None, None]
    return number


def _diffuse(field: Array, number: Array) -> Array:
    """Compute `field + number * laplace(field)` in cell units, zero gradient outside. `(B, h, w)` to `(B, h, w)`."""
    batch, h, w = field.shape
    padded = np.empty((batch, h + 2, w + 2), dtype=field.dtype)
    padded[:, 1:-1, 1:-1] = field
    padded[:, 0, 1:-1] = field[:, 0]
    padded[:, -1, 1:-1] = field[:, -1]
    padded[:, 1:-1, 0] = field[:, :, 0]
    padded[:, 1:-1, -1] = field[:, :, -1]
    out = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    out += padded[:, 1:-1, :-2]
    out += padded[:, 1:-1, 2:]
    out *= number
    out += (1.0 - 4.0 * number) * field
    return out


def _mean_of_faces(field: Array) -> Array:
    """Average the four faces of the other component around each face, zero gradient outside.

    Args:
        field: Component along the last axis, `(B, h, w)`.

    Returns:
        Means `(B, h+1, w-1)`.
    """
    pairs = field[:, :, 1:] + field[:, :, :-1]
    out = np.empty((pairs.shape[0], pairs.shape[1] + 1, pairs.shape[2]), dtype=field.dtype)
    np.add(pairs[:, 1:], pairs[:, :-1], out=out[:, 1:-1])
    np.add(pairs[:, 0], pairs[:, 0], out=out[:, 0])
    np.add(pairs[:, -1], pairs[:, -1], out=out[:, -1])
    out *= 0.25
    return out


class _SemiLagrangian:
    """Backtrace of one staggered component and its interpolation there, zero gradient outside.

    Indices are computed in the floating type, several times faster in numpy than whole numbers, and exact:
    `step` hands over blocks of fewer than 2^24 points.
    """

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        self._rows = np.arange(shape[0], dtype=dtype)[:, None]
        self._columns = np.arange(shape[1], dtype=dtype)

    def __call__(self, field: Array, u_y: Array, u_x: Array) -> Array:
        """Compute `field(x - u)` for `field` `(B, h, w)` and displacements `u` in cells, same shape."""
        batch, h, w = field.shape
        y, row = _clip(np.subtract(self._rows, u_y), h)
        x, column = _clip(np.subtract(self._columns, u_x), w)
        row += np.arange(0, batch * h, h, dtype=field.dtype)[:, None, None]
        row *= w
        row += column
        corner = row.astype(np.intp)
        flat = np.ascontiguousarray(field).reshape(-1)
        # every index is in range; "wrap" is only numpy's fastest way of gathering
        near, far = (
            _lerp(flat[start:].take(corner, mode="wrap"), flat[start + 1 :].take(corner, mode="wrap"), x) for start in (0, w)
        )
        return _lerp(near, far, y)


def _clip(position: Array, points: int) -> tuple[Array, Array]:
    """Clip positions into the grid, in place; return each one's distance from the point before it, and that point's index."""
    np.clip(position, 0.0, points - 1.0, out=position)
    index = np.floor(position)
    np.minimum(index, points - 2, out=index)
    position -= index
    return position, index


def _lerp(low: Array, high: Array, weight: Array) -> Array:
    """Compute `low + weight * (high - low)` in the memory of `high`."""
    high -= low
    high *= weight
    high += low
    return high


class PressureSolve:
    """Poisson equation of the projection, factored once: `laplace(p) = div` in fluid cells, `p = 0` outside the domain.

    Without the obstacle the five-point Laplacian is diagonal under the sine transform DST-I, here two small matrix
    products. The obstacle changes only the rows of its own cells and of their neighbours, so the Woodbury identity

        (A0 + E M E^T)^-1 = A0^-1 - A0^-1 E (I + M G)^-1 M E^T A0^-1,   G = E^T A0^-1 E

    adds a correction that needs the first solution only in a box around the obstacle.

    Args:
        fluid: Mask of cells `(H, W)`, False in the obstacle.
        dtype: Type of right-hand sides and solutions; the factorisation is computed in float64.
    """

    def __init__(self, fluid: NDArray[np.bool_], dtype: str) -> None:
        height, width = fluid.shape
        sine_y, sine_x = _sine_transform(height), _sine_transform(width)
        eigenvalues = _laplace_eigenvalues(height)[:, None] + _laplace_eigenvalues(width)[None, :]
        self._sine_y, self._sine_x = sine_y.astype(dtype), sine_x.astype(dtype)
        self._inverse = (1.0 / eigenvalues).astype(dtype)
        self._box = _obstacle_box(fluid)
        if self._box is None:
            return
        rows, columns = self._box
        box_y, box_x = sine_y[rows], sine_x[columns]
        self._box_y, self._box_x = box_y.astype(dtype), box_x.astype(dtype)
        self._ring, change = _obstacle_change(fluid[rows, columns])
        green = _green_function(box_y, box_x, 1.0 / eigenvalues, self._ring)
        correction = np.linalg.solve(np.eye(len(change)) + change @ green, change)
        self._correction = np.ascontiguousarray(correction.T).astype(dtype)

    def __call__(self, divergence: Array) -> Array:
        """Solve for right-hand sides `(B, H, W)`, in cell units."""
        spectrum = self._sine_y @ divergence @ self._sine_x
        spectrum *= self._inverse
        if self._box is not None:
            near = self._box_y @ spectrum @ self._box_x.T
            source = np.zeros_like(near)
            source.reshape(len(near), -1)[:, self._ring] = near.reshape(len(near), -1)[:, self._ring] @ self._correction
            change = self._box_y.T @ source @ self._box_x
            change *= self._inverse
            spectrum -= change
        return np.asarray(self._sine_y @ spectrum @ self._sine_x)


def _sine_transform(points: int) -> NDArray[np.float64]:
    """Compute the orthonormal, symmetric DST-I matrix, its own inverse."""
    k = np.arange(1, points + 1)
    return np.asarray(np.sqrt(2.0 / (points + 1)) * np.sin(np.pi * np.outer(k, k) / (points + 1)))


def _laplace_eigenvalues(points: int) -> NDArray[np.float64]:
    """Compute the eigenvalues of the second difference with zero values outside, `-4 sin^2(pi k / (2 (n+1)))`."""
    return np.asarray(-4.0 * np.sin(np.pi * np.arange(1, points + 1) / (2 * (points + 1))) ** 2)


def _obstacle_box(fluid: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Find the smallest box around the obstacle and the cells next to it; None without an obstacle."""
    if fluid.all():
        return None
    rows, columns = (np.flatnonzero((~fluid).any(axis=axis)) for axis in (1, 0))
    height, width = fluid.shape
    return (
        slice(max(rows[0] - 1, 0), min(rows[-1] + 2, height)),
        slice(max(columns[0] - 1, 0), min(columns[-1] + 2, width)),
    )


def _obstacle_change(fluid: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Compute the obstacle's change of the five-point Laplacian: the ring of cells on both sides of its surface, and `M` on it.

    A link between a fluid and a solid cell is cut, and the fluid cell then counts one neighbour less. A solid cell keeps
    its diagonal of -4 and its solid neighbours: with no divergence inside, the pressure there is zero.

    Args:
        fluid: Mask of cells in the box around the obstacle.

    Returns:
        Flat indices into the box, `(m,)`, and `M`, `(m, m)`.
    """
    numbers = np.arange(fluid.size).reshape(fluid.shape)
    change = np.zeros((fluid.size, fluid.size))
    for first, second in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        cut = fluid[first] != fluid[second]
        in_fluid = np.where(fluid[first], numbers[first], numbers[second])[cut]
        in_solid = np.where(fluid[first], numbers[second], numbers[first])[cut]
        change[in_fluid, in_solid] = change[in_solid, in_fluid] = -1.0
        np.add.at(change, (in_fluid, in_fluid), 1.0)
    ring = np.flatnonzero(change.any(axis=1))
    return ring, change[np.ix_(ring, ring)]


def _green_function(
    box_y: NDArray[np.float64], box_x: NDArray[np.float64], inverse: NDArray[np.float64], ring: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Compute `G = E^T A0^-1 E`, `(m, m)`: the obstacle-free inverse between the cells of the ring."""
    rows, columns = np.divmod(ring, len(box_x))
    modes_x = box_x[columns]
    along_y = np.einsum("ik,jk,kl->ijl", box_y, box_y, inverse, optimize=True)
    return np.stack([(along_y[row, rows] * modes_x) @ mode for row, mode in zip(rows, modes_x, strict=True)])
