"""Solvers written in jax: opaque to the package through `step`, differentiable for torch through jax's own products.

Nothing of jax's configuration is touched: arithmetic is that of the arrays, float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import jax
import numpy as np
import torch

from deepzero_sim.common.types import Array
from deepzero_sim.solver.contract import DifferentiableSolver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_call

#: Step of one state, `(C, *N)` to `(C, *N)`, in jax.
Advance: TypeAlias = Callable[[Any], Any]


class JaxSolver(DifferentiableSolver):
    """Solver whose step is a function of jax, compiled once for every number of states.

    Args:
        spec: Description of the solver.
        advance: Step of one state; solvers with the same function share what is compiled.

    Attributes:
        advance: Step of one state, as it was given: jax runs it operation by operation.
    """

    def __init__(self, spec: SolverSpec, advance: Advance) -> None:
        self.spec = spec
        self.advance = advance
        self._step, self._pull_back = _compile(advance)

    def step(self, states: Array, params: Array | None = None) -> Array:
        check_call(self.spec, states, params)
        return np.array(self._step(states), dtype=self.spec.dtype)

    def pull_back(self, states: Array, cotangents: Array) -> Array:
        """Compute `J(s)^T w` exactly, `(B, C, *N)`, of states and cotangents of that shape."""
        return np.array(self._pull_back(states, cotangents), dtype=self.spec.dtype)

    def differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        return differentiate(self.step, self.pull_back, states)


@cache
def _compile(advance: Advance) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile a step and its product for many states; once in a process, as every run builds its solver anew."""
    return jax.jit(jax.vmap(advance)), jax.jit(jax.vmap(lambda state, w: jax.vjp(advance, state)[1](w)[0]))


#: Functions of a step and of its product, `J(s)^T w`.
Step: TypeAlias = Callable[[Array], Array]
PullBack: TypeAlias = Callable[[Array, Array], Array]


def differentiate(step: Step, pull_back: PullBack, states: torch.Tensor) -> torch.Tensor:
    """Take a step of numpy that autograd goes back through by a product of numpy.

    Args:
        step: Step, `(B, C, *N)` to `(B, C, *N)`.
        pull_back: Product `J(s)^T w` of states and cotangents.
        states: States `(B, C, *N)`.
    """
    advanced: torch.Tensor = _Differentiated.apply(states, step, pull_back)  # type: ignore[no-untyped-call]
    return advanced


class _Differentiated(torch.autograd.Function):
    """Autograd's view of a step that comes with its product."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, step: Step, pull_back: PullBack) -> torch.Tensor:
        ctx.save_for_backward(states)
        ctx.pull_back = pull_back
        return torch.from_numpy(step(states.detach().numpy()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangents: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (states,) = ctx.saved_tensors
        return torch.from_numpy(ctx.pull_back(states.numpy(), cotangents.numpy())), None, None
