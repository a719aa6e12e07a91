"""A solver as a layer of a network: torch differentiates all else, and the solver's vector-Jacobian product is estimated."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torch import nn

from deepzero_sim.common.requirements import require_executor, require_type
from deepzero_sim.common.types import Array, read_only_copy, to_array, to_array_or_none
from deepzero_sim.coupling.named_gradients import SolverGradient, as_product
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp.base import StepTaken, VectorJacobianProduct
from deepzero_sim.coupling.vjp.parameter_differences import Differentiated, parameter_products
from deepzero_sim.errors import ConfigError, InvalidStateError, NonFiniteError
from deepzero_sim.execution.thread_trial import note_rollout
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, as_policy
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import inputs_at_rest, with_input_channels
from deepzero_sim.solver.stepping import CASTS, step_all
from deepzero_sim.solver.validation import argument_name, check_inputs


class SolverLayer(nn.Module):
    """One solver step under autograd: `layer(states, params)`, `(B, C, *N)` and `(B, K)` or None to `(B, C, *N)`.

    The result is the solver's, in its own dtype, on the states' device. Backwards, `vjp` gives `J^T w` for the states, and for
    the fields that the solver reads besides them, `layer(states, params, inputs)`. Scenario parameters that require a gradient
    have it from differences of two steps each.

    In a training loop of your own with an optimiser of torch, the first updates try whether torch is faster with one thread
    than with its default number, set the faster one for the process, and log it at level INFO: see
    :mod:`deepzero_sim.execution.thread_trial`. Whoever sets `OMP_NUM_THREADS`, or another number by `torch.set_num_threads`,
    has chosen, and nothing is tried.

    Args:
        solver: Solver that advances states by one step.
        vjp: Estimator of its vector-Jacobian product, or its name as in :class:`SolverLoop`; None for
            :class:`~deepzero_sim.vjp.Auto`, which chooses one.
        executor: Executor of the solver steps of the backward pass; this thread if None.
        on_failure: Policy that says how often a step that fails is taken again, see :class:`FailurePolicy`; what fails all the
            same is raised.
        require_deterministic: False to take a solver that is not deterministic: what `vjp` gives must not depend on its steps.

    Attributes:
        solver: Solver that is stepped; of one that reads inputs, that with its inputs as channels.
        forward_steps: States advanced on the way forward.
        probes: Probe that advances states for `vjp`, and counts them and their failures.
        differentiated: Scenario parameters that gradients are wanted of, where `params` requires one; all of them if None.

    Raises:
        ConfigError: There is no solver or no vector-Jacobian product, the product is that of another solver's layer, or the
            solver is not deterministic.
    """

    def __init__(
        self,
        solver: Solver,
        vjp: SolverGradient | VectorJacobianProduct | None = None,
        executor: Executor | None = None,
        on_failure: FailurePolicy | str | Mapping[str, str] = "abort",
        require_deterministic: bool = True,
    ) -> None:
        super().__init__()
        require_type(solver, Solver, "a SolverLayer holds a solver, which dz.as_solver makes of a function")
        vjp = as_product("auto" if vjp is None else vjp, "vjp")
        if require_deterministic:
            require_repeatable_steps(solver.spec, vjp)
        require_executor(executor)
        self._own = solver.spec
        solver = with_input_channels(solver)
        vjp.bind(solver)
        self.solver = solver
        self.vjp = vjp
        self.forward_steps = 0
        self.differentiated: Differentiated | None = None
        self.on_failure = as_policy(on_failure)
        self.probes = SolverProbe(solver, executor, self.on_failure)

    def extra_repr(self) -> str:
        return f"{self.solver!r}, vjp={type(self.vjp).__name__}"

    @property
    def backward_steps(self) -> int:
        """States advanced on the way back."""
        return self.probes.steps

    def forward(
        self, states: torch.Tensor, params: torch.Tensor | None = None, inputs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Take one step.

        Args:
            states: Tensor `(B, C, *N)`.
            params: Tensor `(B, K)` or None.
            inputs: Fields that the solver reads besides its state, `(B, U, *N)`; those of its spec if None.

        Raises:
            ConfigError: The arguments are not tensors that a solver takes.
            SolverError: The solver failed.
        """
        taken = self.with_inputs(states, inputs)
        return self.step(taken, params, "on the way forward")[0][:, : self._own.state_shape[0]]

    def prepare(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> None:
        """Let the vector-Jacobian product learn of the solver, at states and inputs like those to come.

        Args:
            states: Solver states, `(B, C, *N)`.
            params: Scenario parameters, `(B, K)`, or None.
            inputs: Fields that the solver reads besides its state, `(B, U, *N)`, as varied as those to come; those of its spec
                if None.

        Raises:
            ConfigError: The product does not suit the solver.
            SolverError: The solver failed.
        """
        if self._own.inputs:
            given = (
                np.broadcast_to(inputs_at_rest(self._own), (len(states), *self._own.input_shape)) if inputs is None else inputs
            )
            check_inputs(self._own, np.ascontiguousarray(given), len(states))
            states = np.concatenate([states, given], axis=1)
        self.vjp.prepare(states, params, self.probes)

    def with_inputs(self, states: torch.Tensor, inputs: torch.Tensor | None = None) -> torch.Tensor:
        """Add inputs to states, as channels behind theirs: those of the spec if None."""
        name, spec = self._own.name, self._own
        if inputs is not None and not spec.inputs:
            raise ConfigError(
                f"solver {name!r} reads no inputs, as its spec names none: give inputs to its spec, or none here."
            )
        if not spec.inputs:
            return states
        _require_tensor("states", states, name)
        if inputs is None:
            inputs = torch.from_numpy(inputs_at_rest(spec)).to(states).expand(len(states), *spec.input_shape)
        _require_tensor("inputs", inputs, name)
        if inputs.shape != (len(states), *spec.input_shape):
            raise ConfigError(
                f"the inputs of solver {name!r} ({', '.join(spec.input_names)}) must have shape "
                f"{(len(states), *spec.input_shape)}, not {tuple(inputs.shape)}: pass one field of each for every state."
            )
        return torch.cat([states, inputs.to(states)], dim=1)

    def step(self, states: torch.Tensor, params: torch.Tensor | None, where: str) -> tuple[torch.Tensor, Account]:
        """Take one step, and tell what it took.

        Args:
            states: Tensor `(B, C, *N)`.
            params: Tensor `(B, K)` or None.
            where: Place that the states come from, in words, for errors.

        Returns:
            Tensor `(B, C, *N)` that autograd goes back from, and the cost of the step.

        Raises:
            ConfigError: The arguments are not tensors that a solver takes.
            SolverError: The solver failed.
        """
        self._require_tensors(states, params)
        note_rollout(states)
        recorded = self.vjp.differentiable_step(self.solver, states, params)
        if recorded is not None:
            self.forward_steps += len(states)
            return recorded, Account(len(states))
        if torch._C._are_functorch_transforms_active():  # else torch raises an error on how autograd functions are written
            raise ConfigError(
                f"torch.func's grad, jvp and vmap do not pass a SolverLayer of solver {self.solver.spec.name!r}: take "
                "torch.autograd.grad or backward, and batches of states."
            )
        stepped: tuple[torch.Tensor, Account] = _Step.apply(states, params, self, where)  # type: ignore[no-untyped-call]
        return stepped

    def _require_tensors(self, states: torch.Tensor, params: torch.Tensor | None) -> None:
        _require_tensor("states", states, self.solver.spec.name)
        if params is not None:
            _require_tensor("params", params, self.solver.spec.name)

    def pull_back_to_params(self, taken: StepTaken, cotangents: torch.Tensor) -> torch.Tensor:
        """Compute `(dP/dp)^T w` of every state, `(B, K)`, by differences of two steps a parameter; zero of others than those.

        Raises:
            SolverError: The solver failed.
        """
        require_repeatable_differences(self.solver.spec)
        active = self.solver.spec.active()
        w = np.where(active, to_array(cotangents), np.zeros((), taken.states.dtype))
        return torch.from_numpy(parameter_products(taken, w, self.probes, self.differentiated))

    def pull_back(self, taken: StepTaken, cotangents: torch.Tensor) -> torch.Tensor:
        """Compute `J^T w` of every state, `(B, C, *N)`.

        Raises:
            ConfigError: The vector-Jacobian product gave something else.
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


def require_repeatable_steps(spec: SolverSpec, vjp: VectorJacobianProduct) -> None:
    """Refuse a solver that is not deterministic for a product that needs one.

    Raises:
        ConfigError: It is not.
    """
    if vjp.requires_determinism:
        require_repeatable_differences(spec)


def require_repeatable_differences(spec: SolverSpec) -> None:
    """Refuse a solver that is not deterministic, of whose steps differences are to be taken.

    Raises:
        ConfigError: It is not.
    """
    if not spec.deterministic:
        raise ConfigError(
            f"solver {spec.name!r} is not deterministic, so that differences of its steps say nothing: fix its seed and say so "
            "in its spec."
        )


def _require_tensor(name: str, tensor: object, solver: str) -> None:
    fits = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    if not fits or tensor.dtype not in (torch.float32, torch.float64):  # type: ignore[attr-defined]
        what = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ConfigError(f"the {name} of solver {solver!r} must be a dense float32 or float64 tensor, not {what}: convert it.")


def _require_dtype(states: torch.Tensor, spec: SolverSpec) -> None:
    """Refuse states of another type than the solver's, in the words of tensors."""
    came = str(states.dtype).removeprefix("torch.")
    if came != spec.dtype:
        raise InvalidStateError(
            f"{argument_name(spec)} must be {spec.dtype}, not {came}: convert it with .{CASTS[spec.dtype]}()."
        )


class _Step(torch.autograd.Function):
    """Autograd's view of a solver step."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, params: torch.Tensor | None, layer: SolverLayer, where: str
    ) -> tuple[torch.Tensor, Account]:
        _require_dtype(states, layer.solver.spec)
        given, scenario = to_array(states), to_array_or_none(params)
        layer.forward_steps += len(given)
        advanced, account = step_all(layer.solver, given, scenario, layer.on_failure, where)
        ctx.layer, ctx.params, ctx.advanced = layer, None if scenario is None else read_only_copy(scenario), advanced
        ctx.save_for_backward(states)  # torch says it if they have been written to when they are needed
        return torch.from_numpy(advanced.copy()).to(states.device), account  # the caller may write to its own

    @staticmethod
    def backward(ctx: Any, cotangents: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        (states,) = ctx.saved_tensors
        product = of_params = None
        if ctx.needs_input_grad[0]:
            product = _Product.apply(states, cotangents, ctx.layer, ctx.params, ctx.advanced)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            taken = StepTaken(to_array(states), ctx.params, ctx.advanced)
            of_params = ctx.layer.pull_back_to_params(taken, cotangents).to(cotangents)
        return product, of_params, None, None


class _Product(torch.autograd.Function):
    """A vector-Jacobian product, through which autograd can go back once more only if `J` is the same everywhere."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, cotangents: torch.Tensor, layer: SolverLayer, params: Array | None, advanced: Array
    ) -> torch.Tensor:
        ctx.layer, ctx.taken = layer, StepTaken(to_array(states), params, advanced)
        return layer.pull_back(ctx.taken, cotangents).to(states.device)

    @staticmethod
    def backward(ctx: Any, cotangents: torch.Tensor) -> tuple[None, torch.Tensor, None, None, None]:
        if not ctx.layer.vjp.self_adjoint:
            raise ConfigError(
                "a SolverLayer can be differentiated once: leave out create_graph, or take a DifferentiableSolver."
            )
        return None, ctx.layer.pull_back(ctx.taken, cotangents).to(cotangents.device), None, None, None
