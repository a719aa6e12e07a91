"""A corrector network in the loop of a solver: `s_{t+1} = P(s_t) + C(P(s_t); theta)`.

`P` is one solver step and `C` the correction, so that the coupled loop follows a reference that `P` alone does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Literal, TypeAlias, get_args

import torch

from deepzero_sim.common.module_state import as_input
from deepzero_sim.common.types import Array, is_integer, to_array, to_array_or_none
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.vjp import VectorJacobianProduct
from deepzero_sim.errors import ConfigError, DeepZeroError, NonFiniteError
from deepzero_sim.solver.contract import DifferentiableSolver, Solver, differentiable_step
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy, as_policy
from deepzero_sim.solver.stepping import advance_all

#: How the gradient passes the solver under autograd: not at all, as if its Jacobian were the identity, or exactly.
SolverGradient: TypeAlias = Literal["detached", "straight-through", "exact"]

#: `(states (B, C, *N), params (B, K) or None) -> correction (B, C, *N)`
CorrectorFunction: TypeAlias = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]

#: `(states (B, C, *N), params (B, K) or None) -> states one step later (B, C, *N)`
StepFunction: TypeAlias = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


class SolverLoop:
    """A solver and the network that corrects its every step.

    Args:
        solver: advances states by one step.
        corrector: a module called as ``corrector(states, params)``, `(B, C, *N)` and `(B, K)` or None to `(B, C, *N)`.
            It computes in its own dtype, on its own device.
        unroll: steps of a rollout when none are asked for, and in training.
        gradient: what autograd sees of the solver: a vector-Jacobian product, or one of three by name. Only a
            :class:`DifferentiableSolver` offers ``"exact"``.
        executor: where solver steps run that a vector-Jacobian product asks for; this thread if None.
        on_failure: what is done when a solver step fails, see :class:`FailurePolicy`.

    Attributes:
        log: failures of steps that all queries share, since it was last looked at.

    Raises:
        ConfigError: unroll is not positive, or the solver has no exact gradient.
    """

    def __init__(
        self,
        solver: Solver,
        corrector: torch.nn.Module,
        unroll: int = 8,
        gradient: SolverGradient | VectorJacobianProduct = "detached",
        executor: Executor | None = None,
        on_failure: FailurePolicy | str | Mapping[str, str] = "abort",
    ) -> None:
        if not isinstance(solver, Solver):
            raise ConfigError(f"a loop needs a solver, which dz.as_solver makes of a function, not {type(solver).__name__}.")
        if not isinstance(corrector, torch.nn.Module):
            raise ConfigError(f"a loop needs a torch.nn.Module that corrects, not {type(corrector).__name__}.")
        if not is_integer(unroll) or unroll < 1:
            raise ConfigError(f"unroll must be a positive number of steps, not {unroll!r}: a whole one.")
        if not isinstance(gradient, VectorJacobianProduct) and gradient not in get_args(SolverGradient):
            raise ConfigError(
                f"gradient must be one of {', '.join(get_args(SolverGradient))}, or a vector-Jacobian product of dz.vjp, "
                f"not {gradient!r}."
            )
        if gradient == "exact" and not isinstance(solver, DifferentiableSolver):
            raise ConfigError(
                f"solver {solver.spec.name!r} offers no gradient: use a DifferentiableSolver for gradient='exact', "
                "or 'detached' or 'straight-through'."
            )
        self.solver = solver
        self.corrector = corrector
        self.unroll = unroll
        self.gradient = gradient
        self.on_failure = as_policy(on_failure)
        self.log = FailureLog()
        self.layer: SolverLayer | None = None
        if isinstance(gradient, VectorJacobianProduct):
            self.layer = SolverLayer(solver, gradient, executor, self.on_failure, self.log)

    def advance(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """One step of the solver alone, `P(s)`: `(B, C, *N)` to `(B, C, *N)`, with the gradient that was chosen."""
        if self.layer is not None:
            through: torch.Tensor = self.layer(states, params)
            return through
        if self.gradient == "exact":
            return self._differentiable_step(states, params)
        advanced = self._opaque_step(states, params)
        # the second term is zero: it only lends the identity's gradient to the result
        return advanced + (states - states.detach()) if self.gradient == "straight-through" else advanced

    def _opaque_step(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        scenario = to_array_or_none(params)
        where = "in the rollout of the loop's own network"
        advanced = advance_all(self.solver, to_array(states), scenario, self.on_failure, self.log, where)
        return torch.from_numpy(advanced).to(states.device)

    @property
    def backward_steps(self) -> int:
        """States advanced so far for vector-Jacobian products."""
        return 0 if self.layer is None else self.layer.backward_steps

    def _differentiable_step(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        assert isinstance(self.solver, DifferentiableSolver)
        advanced = differentiable_step(self.solver, states, params)
        if not bool(torch.isfinite(advanced).all()):
            raise NonFiniteError(
                f"what solver {self.solver.spec.name!r} returned must be finite, but it holds NaN or infinity: "
                "use a smaller learning rate or fewer unrolled steps."
            )
        return advanced

    def correct(
        self, advanced: torch.Tensor, params: torch.Tensor | None = None, corrector: CorrectorFunction | None = None
    ) -> torch.Tensor:
        """Add the correction to advanced states: `P(s) + C(P(s); theta)`, `(B, C, *N)`."""
        inputs, scenario = as_input(self.corrector, advanced), None if params is None else as_input(self.corrector, params)
        correction = _corrected(self.corrector if corrector is None else corrector, inputs, scenario)
        if not isinstance(correction, torch.Tensor) or not correction.is_floating_point():
            what = correction.dtype if isinstance(correction, torch.Tensor) else type(correction).__name__
            raise ConfigError(f"the corrector must return a tensor of real floating-point numbers, not {what}: convert it.")
        if correction.shape != advanced.shape:
            raise ConfigError(
                f"the corrector must return a correction of the states' shape {tuple(advanced.shape)}, "
                f"not {tuple(correction.shape)}: check its padding and its output channels."
            )
        return advanced + correction.to(advanced)

    def rollout(
        self,
        states: torch.Tensor | Array,
        params: torch.Tensor | Array | None = None,
        steps: int | None = None,
        advanced: torch.Tensor | None = None,
        corrector: CorrectorFunction | None = None,
        step: StepFunction | None = None,
    ) -> torch.Tensor:
        """The corrected trajectory from `states`, the initial states left out.

        Args:
            states: `(B, C, *N)`.
            params: `(B, K)` or None.
            steps: how many, `T`; ``unroll`` if None.
            advanced: `(B, C, *N)`, the first solver step `P(states)` if it is known already: it does not depend on the network.
            corrector: used instead of the loop's own, for perturbed copies of it.
            step: used instead of :meth:`advance`, for states of which some may be left out.

        Returns:
            `(B, T, C, *N)`.

        Raises:
            ConfigError: no steps are asked for, or the correction has a wrong shape.
            SolverError: the solver failed.
        """
        steps = self.unroll if steps is None else steps
        if not is_integer(steps) or steps < 1:
            raise ConfigError(f"a rollout needs a positive number of steps, not {steps!r}: a whole one.")
        states = torch.as_tensor(states)
        params = None if params is None else torch.as_tensor(params)
        trajectory = []
        step = self.advance if step is None else step
        for number in range(steps):
            arrived = advanced if advanced is not None and number == 0 else step(states, params)
            states = self.correct(arrived, params, corrector)
            trajectory.append(states)
        return torch.stack(trajectory, dim=1)


def _corrected(corrector: CorrectorFunction, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
    try:
        return corrector(states, params)
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the corrector raised {type(error).__name__} on states of shape {tuple(states.shape)}: {error}; "
            "it is called as corrector(states, params) and returns a correction of the states' shape."
        ) from error
