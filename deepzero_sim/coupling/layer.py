"""A solver as a layer of a network: torch differentiates all else, and the solver's vector-Jacobian product is estimated."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from deepzero_sim.common.types import Array, read_only_copy, to_array, to_array_or_none
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import StepTaken, VectorJacobianProduct
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy, as_policy
from deepzero_sim.solver.stepping import advance_all


class SolverLayer(nn.Module):
    """One solver step under autograd: `layer(states, params)`, `(B, C, *N)` and `(B, K)` or None to `(B, C, *N)`.

    The result is the solver's, in its own dtype, on the states' device. Backwards, `vjp` gives `J^T w` for the states; scenario
    parameters have no gradient.

    Args:
        solver: advances states by one step.
        vjp: how its vector-Jacobian product is estimated.
        executor: where solver steps of the backward pass run; this thread if None.
        on_failure: how often a step that fails is taken again, see :class:`FailurePolicy`; what fails all the same is raised.
        log: where failures are noted; one of its own if None.

    Attributes:
        forward_steps: states advanced on the way forward.
        probes: advances states for `vjp`, and counts them.

    Raises:
        ConfigError: no solver or no vector-Jacobian product, one that another solver's layer holds, or a solver that is not
            deterministic.
    """

    def __init__(
        self,
        solver: Solver,
        vjp: VectorJacobianProduct,
        executor: Executor | None = None,
        on_failure: FailurePolicy | str | Mapping[str, str] = "abort",
        log: FailureLog | None = None,
    ) -> None:
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
        if executor is not None and not hasattr(executor, "submit"):
            raise ConfigError(f"an executor must have submit, as those of dz.open_executor do, but {executor!r} has none.")
        vjp.bind(solver)
        self.solver = solver
        self.vjp = vjp
        self.forward_steps = 0
        self.on_failure = as_policy(on_failure)
        self.log = FailureLog() if log is None else log
        self.probes = SolverProbe(solver, executor, self.on_failure, self.log)

    @property
    def backward_steps(self) -> int:
        """States advanced on the way back."""
        return self.probes.steps

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """One step.

        Raises:
            ConfigError: they are not tensors that a solver takes, or params that want a gradient.
            SolverError: the solver failed.
        """
        for name, tensor in (("states", states), ("params", params)):
            if tensor is not None or name == "states":
                _require_tensor(name, tensor, self.solver.spec.name)
        if params is not None and params.requires_grad:
            raise ConfigError(
                f"scenario parameters of solver {self.solver.spec.name!r} have no gradient past a SolverLayer, but these "
                "require one: detach them, or make them part of the state."
            )
        advanced: torch.Tensor = _Step.apply(states, params, self)  # type: ignore[no-untyped-call]
        return advanced

    def take(self, states: torch.Tensor, params: torch.Tensor | None) -> StepTaken:
        """Advance states, for autograd to go back from."""
        given = to_array(states)
        scenario = to_array_or_none(params)
        self.forward_steps += len(given)
        advanced = advance_all(self.solver, given, scenario, self.on_failure, self.log, "on the way forward")
        return StepTaken(given, scenario, advanced)

    def pull_back(self, taken: StepTaken, cotangents: torch.Tensor) -> torch.Tensor:
        """`J^T w` of every state, `(B, C, *N)`.

        Raises:
            ConfigError: what the vector-Jacobian product gave is none.
        """
        active = self.solver.spec.active()
        w = np.where(active, to_array(cotangents), np.zeros((), taken.states.dtype))
        if not len(w):
            return torch.from_numpy(w)
        product = self.vjp.product(taken, read_only_copy(w), self.probes)
        if not isinstance(product, np.ndarray) or (product.shape, product.dtype) != (w.shape, w.dtype):
            what = f"{product.dtype} {product.shape}" if isinstance(product, np.ndarray) else type(product).__name__
            raise ConfigError(f"{type(self.vjp).__name__}.product must return {w.dtype} {w.shape}, not {what}: convert it.")
        if np.isfinite(w).all() and not np.isfinite(product).all():
            raise NonFiniteError(
                f"{type(self.vjp).__name__} found a product of solver {self.solver.spec.name!r} that is not finite: take "
                "another step_size, or look at the solver's steps near the states."
            )
        return torch.from_numpy(np.where(active, product, np.zeros((), w.dtype)))


def _require_tensor(name: str, tensor: object, solver: str) -> None:
    fits = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    if not fits or tensor.dtype not in (torch.float32, torch.float64):  # type: ignore[attr-defined]
        what = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ConfigError(f"the {name} of solver {solver!r} must be a dense float32 or float64 tensor, not {what}: convert it.")


class _Step(torch.autograd.Function):
    """Autograd's view of a solver step."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, params: torch.Tensor | None, layer: SolverLayer) -> torch.Tensor:
        taken = layer.take(states, params)
        ctx.layer, ctx.params, ctx.advanced = layer, taken.params, taken.advanced
        ctx.save_for_backward(states)  # torch says it if they have been written to when they are needed
        return torch.from_numpy(taken.advanced.copy()).to(states.device)  # the caller may write to its own

    @staticmethod
    def backward(ctx: Any, cotangents: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (states,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        product = _Product.apply(states, cotangents, ctx.layer, ctx.params, ctx.advanced)  # type: ignore[no-untyped-call]
        return product, None, None


class _Product(torch.autograd.Function):
    """A vector-Jacobian product, through which autograd cannot go back once more."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, cotangents: torch.Tensor, layer: SolverLayer, params: Array | None, advanced: Array
    ) -> torch.Tensor:
        return layer.pull_back(StepTaken(to_array(states), params, advanced), cotangents).to(states.device)

    @staticmethod
    def backward(ctx: Any, cotangents: torch.Tensor) -> NoReturn:
        raise ConfigError("a SolverLayer can be differentiated once: leave out create_graph, or take a DifferentiableSolver.")
