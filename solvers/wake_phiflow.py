"""The unsteady wake of a cylinder on PhiFlow 3.4: the same step as the numpy solver, and torch can differentiate it.

This is the differentiable reference of the wake experiment, the upper bound FO-SOL, and an independent check of
:class:`~deepzero_sim.solvers.wake.WakeFlow`. One step is

    v* = v + dt nu laplace(v)                      explicit diffusion
    v*_y = 1 on rows 0..1, first and last column   inflow and free stream
    v** (x) = v*(x - dt v*(x)) [+ dt f(x)]         semi-Lagrangian advection, Euler backtrace, linear interpolation; forcing
    v' = v** - grad p,  laplace(p) = div(v**)      pressure projection, p = 0 outside, v = 0 on the obstacle's faces

PhiFlow computes all of it. Only the linear system `laplace(p) = div` may be given to the prefactored solver of
`WakeFlow` instead of PhiFlow's conjugate gradients, which dominate the time otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal, cast, final, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from deepzero_sim.common.requirements import require_one_of
from deepzero_sim.common.types import Array
from deepzero_sim.errors import MissingExtraError, NonFiniteError, SolverCrashError
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.validation import check_states
from deepzero_sim.solvers.wake import LENGTH, WIDTH, PressureSolve, WakeGrid, diffusion_number, viscosity

Pressure = Literal["direct", "cg"]

#: Largest speed of a state that has not diverged: beyond it, diffusion or backtrace would soon overflow float32.
FASTEST = 1e15


@final
class PhiFlowWake(DifferentiableSolver):
    """Wake solver on PhiFlow with torch: slower than `WakeFlow`, with exact vector-Jacobian products.

    Args:
        resolution: Number of cells across the flow; the grid has `2 * resolution` by `resolution` cells.
        dtype: Type of the states, ``"float32"`` or ``"float64"``.
        pressure: Method for the pressure: ``"direct"`` is the prefactored `PressureSolve`, ``"cg"`` PhiFlow's conjugate
            gradients. They agree to the tolerance; at 64 x 32 and batch 8 a step and its gradient take 5 ms with the first
            and 100 ms with the second, which is for checks.
        tolerance: Relative residual at which conjugate gradients stop, in the step and in its gradient.
        jit: True to compile PhiFlow's operations once per batch size (0.2 s), which makes them tens of times faster.
        forced: True for a step that reads a forcing of both velocities.

    Its states are `(B, 2, 2*resolution+1, resolution+1)`, its one parameter is the Reynolds number; both may require
    gradients. It computes on the CPU.

    Raises:
        MissingExtraError: PhiFlow is not installed.
        ConfigError: An option is not known.
    """

    def __init__(
        self,
        resolution: int = 32,
        dtype: str = "float32",
        pressure: Pressure = "direct",
        tolerance: float = 1e-5,
        jit: bool = True,
        forced: bool = False,
    ) -> None:
        require_one_of(pressure, get_args(Pressure), "pressure")
        self._settings = (resolution, dtype, pressure, tolerance, jit, forced)
        self.grid = WakeGrid(resolution)
        self.spec = replace(self.grid.spec("wake-phiflow", dtype, forced), thread_safe=False)
        self._tolerance, self._jit = tolerance, jit
        self._direct = PressureSolve(self.grid.fluid(), dtype)
        self._solve = self._solve_direct if pressure == "direct" else self._solve_cg
        self._traces: dict[tuple[str, int], Callable[..., tuple[Tensor, ...]]] = {}
        self._phi = _load_phiflow()
        with self._inside_phiflow():
            open_y, open_x = (faces.astype(dtype) for faces in self.grid.open_faces())
            stream = np.zeros_like(open_y)
            stream[:2] = stream[:, 0] = stream[:, -1] = 1.0
            self._open = self._velocity(open_y, open_x)
            self._stream = self._velocity(stream, np.zeros_like(open_x))
            self._fluid = self._cells(self.grid.fluid().astype(dtype), self._phi.math.extrapolation.NONE)

    def __reduce__(self) -> tuple[Any, ...]:
        return PhiFlowWake, self._settings

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        """Advance states as :meth:`differentiable_step` does, with the same errors, without recording."""
        with torch.inference_mode(False), torch.no_grad():  # functions compiled in inference mode never take part in a gradient
            given, forcing = (None if part is None else torch.tensor(part) for part in (params, inputs))
            return np.asarray(self.differentiable_step(torch.tensor(states), given, forcing).numpy())

    def differentiable_step(self, states: Tensor, params: Tensor | None = None, inputs: Tensor | None = None) -> Tensor:
        """Advance states by one step that autograd records.

        Args:
            states: States `(B, 2, H+1, W+1)`.
            params: Reynolds numbers, `(B, 1)`.
            inputs: Forcing of both velocities, `(B, 2, H+1, W+1)`, of a solver that is forced.

        Returns:
            States one step later, `(B, 2, H+1, W+1)`.

        Raises:
            InvalidStateError: States have another shape or dtype.
            NonFiniteError: A state holds NaN, infinity or a number so large that the step would overflow.
            SolverCrashError: Conjugate gradients did not converge, in the step or later in its gradient.
            ConfigError: There are no Reynolds numbers, or they are too low for the explicit diffusion.
        """
        diffusion_number(self.grid, None if params is None else params.detach().numpy())  # refuses unstable numbers
        assert params is not None
        self._check(states)
        nu = viscosity(params[:, 0].double()).to(states.dtype)
        forcing = () if inputs is None else (inputs[:, 0, :, :-1], inputs[:, 1, :-1, :])
        v_y, v_x, divergence = self._run(self._advance, states[:, 0, :, :-1], states[:, 1, :-1, :], nu, *forcing)
        pressure: Tensor = _SymmetricSolve.apply(divergence, self._solve)  # type: ignore[no-untyped-call]
        v_y, v_x = self._run(self._subtract_gradient, v_y, v_x, pressure)
        return torch.stack((pad(v_y, (0, 1)), pad(v_x, (0, 0, 0, 1))), dim=1)

    def _check(self, states: Tensor) -> None:
        """Refuse states that are not finite: on such coordinates, torch's interpolation may crash the process."""
        what, remedy = f"what is given to solver {self.spec.name!r}", "check what comes before the solver"
        check_states(self.spec, states.detach().numpy(), what, remedy)
        if len(states) and not float(states.detach().abs().max()) < FASTEST:
            raise NonFiniteError(f"{what} must be slower than {FASTEST:g}, but the rollout has diverged: {remedy}.")

    def _run(self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Call a function of native tensors, compiled for their batch size if `jit` is set."""
        key = (function.__name__, len(inputs[0]))
        if key in self._traces:
            return self._traces[key](*inputs)
        with self._inside_phiflow():
            if not self._jit:
                return function(*inputs)
            examples = tuple(tensor.detach() for tensor in inputs)
            self._traces[key] = torch.jit.trace(function, examples, check_trace=False)  # type: ignore[no-untyped-call]
        return self._traces[key](*inputs)

    def _advance(self, v_y: Tensor, v_x: Tensor, nu: Tensor, *forcing: Tensor) -> tuple[Tensor, ...]:
        """Diffuse, set boundary values, advect, force, mask: `v**` as `(B, H+1, W)` and `(B, H, W+1)`, and its divergence."""
        amount = self.spec.dt * self._phi.math.wrap(nu, self._phi.math.batch("states"))
        velocity = self._velocity(self._diffuse(v_y, amount), self._diffuse(v_x, amount))
        velocity = velocity * (1 - self._stream) + self._stream
        velocity = self._phi.advect.semi_lagrangian(velocity, velocity, self.spec.dt)
        if forcing:
            velocity = velocity + self.spec.dt * self._velocity(*forcing)
        velocity = velocity * self._open
        return *_components(velocity), _native(self._phi.field.divergence(velocity).values)

    def _diffuse(self, values: Tensor, amount: Any) -> Any:
        """Compute `v + dt nu laplace(v)`, zero gradient outside; PhiFlow's `diffuse.explicit` omits the outermost faces."""
        wrapped = self._wrap(values)
        return wrapped + amount * self._phi.math.laplace(wrapped, dx=self.grid.spacing)

    def _subtract_gradient(self, v_y: Tensor, v_x: Tensor, pressure: Tensor) -> tuple[Tensor, ...]:
        """Compute `v** - grad p` on the open faces, `(B, H+1, W)` and `(B, H, W+1)`."""
        velocity = self._velocity(v_y, v_x)
        cells = self._cells(pressure, self._phi.math.extrapolation.ZERO)
        gradient = self._phi.field.spatial_gradient(cells, velocity.boundary, at="face")
        return _components(velocity - gradient * self._open)

    def _solve_direct(self, divergence: Tensor) -> Tensor:
        """Solve `laplace(p) = div` with `WakeFlow`'s factorisation, `(B, H, W)` to `(B, H, W)`."""
        return torch.from_numpy(self._direct(divergence.numpy() * self.spec.spacing[0] ** 2))

    def _solve_cg(self, divergence: Tensor) -> Tensor:
        """Solve `laplace(p) = div` with PhiFlow's conjugate gradients, `(B, H, W)` to `(B, H, W)`."""
        math, extrapolation = self._phi.math, self._phi.math.extrapolation
        with self._inside_phiflow():
            right = self._cells(divergence, extrapolation.ZERO)
            solve = math.Solve("CG", self._tolerance, 0.0, x0=right * 0)
            boundary = (extrapolation.ZERO_GRADIENT, self._open, self._fluid)
            try:
                pressure = math.solve_linear(self._phi.fluid.masked_laplace, right, solve, *boundary, wide_stencil=False)
            except math.ConvergenceException as error:
                raise SolverCrashError(
                    f"solver {self.spec.name!r}: conjugate gradients did not reach a relative residual of {self._tolerance:g} "
                    "in the pressure equation: raise the tolerance, use float64 or pressure='direct'."
                ) from error
            return _native(pressure.values)

    def _velocity(self, v_y: Any, v_x: Any) -> Any:
        """Make a staggered PhiFlow grid of `([B,] H+1, W)` and `([B,] H, W+1)`, zero gradient outside."""
        math = self._phi.math
        values = math.stack({"y": self._wrap(v_y), "x": self._wrap(v_x)}, math.dual("vector"))
        return self._phi.field.StaggeredGrid(values, self._phi.math.extrapolation.ZERO_GRADIENT, **self._domain())

    def _cells(self, values: Tensor | Array, boundary: Any) -> Any:
        """Make a centred PhiFlow grid of `([B,] H, W)`."""
        return self._phi.field.CenteredGrid(self._wrap(values), boundary, **self._domain())

    def _domain(self) -> dict[str, Any]:
        height, width = self.grid.shape
        return {"bounds": self._phi.geom.Box(y=LENGTH, x=WIDTH), "y": height, "x": width}

    def _wrap(self, values: Any) -> Any:
        """Wrap `([B,] h, w)` as a PhiFlow tensor, not copied; it may be one already."""
        math = self._phi.math
        if isinstance(values, math.Tensor):
            return values
        dims = math.spatial("y,x")
        return math.wrap(values, dims if values.ndim == 2 else math.batch("states") & dims)

    @contextmanager
    def _inside_phiflow(self) -> Iterator[None]:
        """Compute with torch in the precision of the spec, for this block only, and keep quiet about tracing."""
        with _quiet(), self._phi.torch.TORCH, self._phi.math.precision(64 if self.spec.dtype == "float64" else 32):
            yield


class _SymmetricSolve(torch.autograd.Function):
    """Solution `x = A^-1 b` for a symmetric `A` that autograd does not see: its vector-Jacobian product is itself."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return solve(right.detach())

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        product: Tensor = _SymmetricSolve.apply(cotangents[0], ctx.solve)  # type: ignore[no-untyped-call]
        return product, None


def _components(velocity: Any) -> tuple[Tensor, Tensor]:
    """Unwrap the two components of a staggered PhiFlow grid, `(B, H+1, W)` and `(B, H, W+1)`."""
    return _native(velocity.values[{"~vector": "y"}]), _native(velocity.values[{"~vector": "x"}])


def _native(values: Any) -> Tensor:
    """Unwrap a PhiFlow tensor to `(B, h, w)`."""
    return cast(Tensor, values.native("states,y,x"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence PhiFlow's warnings of numpy's and torch's own plans, and of every shape that tracing makes constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load_phiflow() -> SimpleNamespace:
    """Import the parts of PhiFlow that are used, late: PhiFlow is optional, and takes a second.

    Raises:
        MissingExtraError: PhiFlow is not installed.
    """
    parts = ("field", "geom", "math", "physics.advect", "physics.fluid", "torch")
    try:
        with _quiet():
            return SimpleNamespace(**{part.rpartition(".")[2]: import_module(f"phi.{part}") for part in parts})
    except ImportError as error:
        raise MissingExtraError("the PhiFlow wake solver", "phi", "phiflow") from error
