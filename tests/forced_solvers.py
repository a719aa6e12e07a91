"""Solvers that read fields besides their state, with differentiable twins: a viscosity, a forcing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deepzero_sim.common.types import Array
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.input_fields import InputField
from deepzero_sim.solver.spec import SolverSpec


def _roll(values: Any, shift: int, axis: int = -1) -> Any:
    return torch.roll(values, shift, axis) if isinstance(values, torch.Tensor) else np.roll(values, shift, axis)


class _Twin(DifferentiableSolver):
    """One step, written for arrays and tensors alike."""

    def advance(self, states: Any, params: Any, inputs: Any) -> Any:
        raise NotImplementedError

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        assert inputs is not None and not states.flags.writeable and not inputs.flags.writeable
        return np.asarray(self.advance(states, params, inputs), dtype=states.dtype)

    def differentiable_step(
        self, states: torch.Tensor, params: torch.Tensor | None = None, inputs: torch.Tensor | None = None
    ) -> torch.Tensor:
        result: torch.Tensor = self.advance(states, params, inputs)
        return result


class ViscousBurgers(_Twin):
    """Burgers' equation with a viscosity that differs from point to point: `u_t + (u^2/2)_x = (nu u_x)_x` on a periodic line.

    `speed` scales the flux, so that there is a parameter too.
    """

    def __init__(self, points: int = 32, dtype: str = "float64", substeps: int = 2) -> None:
        self.substeps = substeps
        self.spec = SolverSpec(
            name="viscous burgers",
            state_shape=(1, points),
            dt=0.02,
            dtype=dtype,
            channels=("u",),
            parameters=("speed",),
            inputs=(InputField("viscosity", "m2/s", value=0.05, scale=0.02, least=0.0),),
            stencil=2 * substeps,
        )

    def advance(self, states: Any, params: Any, inputs: Any) -> Any:
        spacing, dt = 2 * np.pi / states.shape[-1], self.spec.dt / self.substeps
        speed = 1.0 if params is None else params[:, :, None]
        between = (inputs + _roll(inputs, -1)) / 2
        for _ in range(self.substeps):
            flux = speed * (states**2 + _roll(states, -1) ** 2) / 4 - between * (_roll(states, -1) - states) / spacing
            states = states - dt / spacing * (flux - _roll(flux, 1))
        return states


class ForcedDiffusion(_Twin):
    """Two channels on a periodic plane, moved by each other, diffused, and forced by two fields of their own, one a face's."""

    def __init__(self, points: int = 18, dtype: str = "float64") -> None:
        self.spec = SolverSpec(
            name="forced diffusion",
            state_shape=(2, points, points),
            dt=0.1,
            dtype=dtype,
            inputs=({"name": "heating", "scale": 0.5}, {"name": "wind", "scale": 0.5, "shape": (points - 1, points)}),  # type: ignore[arg-type]
            stencil=1,
        )

    def advance(self, states: Any, params: Any, inputs: Any) -> Any:
        change = 0.0 * states
        for axis in (-1, -2):
            change = change + 0.2 * (_roll(states, 1, axis) - 2 * states + _roll(states, -1, axis))
        other = _roll(states, 1, 1)
        moved = inputs[:, 1:] * (_roll(states, -1, -1) - _roll(states, 1, -1)) / 2
        return states + self.spec.dt * (change + inputs[:, :1] * (1 - states) - moved + 0.1 * states * other)


FORCED = {"viscous burgers": ViscousBurgers, "forced diffusion": ForcedDiffusion}


def case(solver: _Twin, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Draw smooth states, parameters and inputs, as tensors of the solver's type."""
    from deepzero_sim.coupling.couplings import smooth_noise  # noqa: PLC0415

    spec = solver.spec
    dtype = getattr(torch, spec.dtype)
    states = smooth_noise(torch.zeros(count, *spec.state_shape, dtype=dtype), seed)
    given = smooth_noise(torch.zeros(count, *spec.input_shape, dtype=dtype), seed + 1)
    fields = [(one.value + one.scale * given[:, i]).clamp(one.least, one.most) if one.least is not None or one.most is not None
              else one.value + one.scale * given[:, i] for i, one in enumerate(spec.inputs)]  # fmt: skip
    active = torch.from_numpy(spec.active_inputs())
    params = torch.linspace(0.8, 1.2, count, dtype=dtype)[:, None] if spec.parameters else None
    return states, params, torch.stack(fields, dim=1).to(dtype) * active
