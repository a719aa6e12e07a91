"""A solver as a layer of a network: torch differentiates all else, and the solver's vector-Jacobian product is estimated."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from deepzero_sim.errors import ConfigError
from deepzero_sim.probing import Probes
from deepzero_sim.solver import Solver, checked_step
from deepzero_sim.types import to_array
from deepzero_sim.vjp import StepTaken, VectorJacobianProduct


class SolverLayer(nn.Module):
    """One solver step under autograd: `layer(states, params)`, `(B, C, *N)` and `(B, K)` or None to `(B, C, *N)`.

    The result is the solver's, in its own dtype, on the states' device. Backwards, `vjp` gives `J^T w` for the states; scenario
    parameters have no gradient.

    Args:
        solver: advances states by one step.
        vjp: how its vector-Jacobian product is estimated.
        executor: where solver steps of the backward pass run; this thread if None.

    Attributes:
        forward_steps: states advanced on the way forward.
        probes: advances states for `vjp`, and counts them.

    Raises:
        ConfigError: no solver or no vector-Jacobian product, one that another solver's layer holds, or a solver that is not
            deterministic.
    """

    def __init__(self, solver: Solver, vjp: VectorJacobianProduct, executor: Executor | None = None) -> None:
        super().__init__()
        if not isinstance(solver, Solver):
            raise ConfigError(
                f"a SolverLayer holds a solver, which dz.as_solver makes of a function, not {type(solver).__name__}."
            )
        if not isinstance(vjp, VectorJacobianProduct):
            raise ConfigError(f"vjp must be a dz.vjp.VectorJacobianProduct, such as dz.vjp.ReferenceJacobian(), not {vjp!r}.")
        if not solver.spec.deterministic:
            raise ConfigError(
                f"solver {solver.spec.name!r} is not deterministic, so that differences of its steps say nothing: fix its "
                "seed and say so in its spec."
            )
        vjp.serve(solver)
        self.solver = solver
        self.vjp = vjp
        self.forward_steps = 0
        self.probes = Probes(solver, executor)

    @property
    def backward_steps(self) -> int:
        """States advanced on the way back."""
        return self.probes.steps

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """One step.

        Raises:
            SolverError: the solver failed.
        """
        advanced: torch.Tensor = _Step.apply(states, params, self)  # type: ignore[no-untyped-call]
        return advanced

    def take(self, states: torch.Tensor, params: torch.Tensor | None) -> StepTaken:
        """Advance states, for autograd to go back from."""
        given = to_array(states)
        scenario = None if params is None else to_array(params)
        self.forward_steps += len(given)
        return StepTaken(given, scenario, checked_step(self.solver, given, scenario))

    def pull_back(self, taken: StepTaken, cotangents: torch.Tensor) -> torch.Tensor:
        """`J^T w` of every state, `(B, C, *N)`."""
        active = self.solver.spec.active()
        w = to_array(cotangents) * active
        return torch.from_numpy(self.vjp.product(taken, w, self.probes) * active)


class _Step(torch.autograd.Function):
    """Autograd's view of a solver step."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, params: torch.Tensor | None, layer: SolverLayer) -> torch.Tensor:
        ctx.layer, ctx.taken = layer, layer.take(states, params)
        ctx.device = states.device
        return torch.from_numpy(ctx.taken.advanced).to(states.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangents: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.layer.pull_back(ctx.taken, cotangents).to(ctx.device), None, None
