"""A network in the loop of a solver, so that the coupled loop follows a reference that the solver alone does not.

With `P` one solver step and `C` the network, `s_{t+1} = P(s_t) + C(P(s_t); theta)`, or as another coupling has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepzero_sim.common.module_state import as_input
from deepzero_sim.common.requirements import is_count, require, require_that, require_type
from deepzero_sim.common.types import Array, to_array
from deepzero_sim.coupling.couplings import After, Before, Coupling, CouplingName, Inside, as_coupling
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.named_gradients import SolverGradient, as_product
from deepzero_sim.coupling.trained_params import TrainedParams, module_of
from deepzero_sim.coupling.vjp.analytic import Detached, StraightThrough
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.coupling.vjp.identity_of_states import IdentityOfStates
from deepzero_sim.coupling.vjp.parameter_differences import Differentiated
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, add_account_to_error, total
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_finite

#: Place of steps that all queries share, for messages and incidents.
OWN_ROLLOUT = "in the rollout of the loop's own network"


class SolverLoop:
    """A solver and the network that corrects its every step.

    Args:
        solver: Solver that advances states by one step.
        corrector: Module called as ``corrector(states, params)``, `(B, C, *N)` and `(B, K)` or None to `(B, C, *N)`.
            It computes in its own dtype, on its own device.
        unroll: Number of steps of a rollout when none are asked for, and in training.
        gradient: Vector-Jacobian product that autograd asks of the solver, or the name of one of four: ``"detached"``,
            ``"straight-through"``, ``"exact"``, which only a :class:`DifferentiableSolver` offers, or ``"auto"``, which
            chooses the one that suits the solver, see :class:`~deepzero_sim.vjp.Auto`.
        executor: Executor of the solver steps that a vector-Jacobian product asks for; this thread if None.
        on_failure: Policy for solver steps that fail, see :class:`FailurePolicy`.
        coupling: Place where the network acts: ``"after"`` a step, ``"before"`` it, ``"inside"`` it, on the fields that the
            solver reads besides its state, or a :class:`~deepzero_sim.couplings.Coupling`.
        within: Product for the step that the gradient of a network before or inside it passes, where `gradient` is detached;
            for the fields of a network inside, where it is straight-through.
        trained_params: Scenario parameters that are trained; none if None.

    Attributes:
        solver: Solver.
        layer: Step of the solver that is stepped under autograd, which :meth:`Coupling.adapt` makes of it.
        gradient: Vector-Jacobian product of that.
        truncated: True if the gradient stops at the state that each step began with.
        model: Module of all that is trained: the corrector, or with the trained parameters.

    Raises:
        ConfigError: The unroll is not positive, or the solver has no exact gradient.
    """

    def __init__(
        self,
        solver: Solver,
        corrector: torch.nn.Module,
        unroll: int = 8,
        gradient: SolverGradient | VectorJacobianProduct = "detached",
        executor: Executor | None = None,
        on_failure: FailurePolicy | str | Mapping[str, str] = "abort",
        coupling: CouplingName | Coupling = "after",
        within: SolverGradient | VectorJacobianProduct = "auto",
        trained_params: TrainedParams | None = None,
    ) -> None:
        require_type(solver, Solver, "a loop needs a solver, which dz.as_solver makes of a function")
        require_type(corrector, torch.nn.Module, "a loop needs a torch.nn.Module that corrects")
        require(is_count(unroll), "unroll must be a positive number of steps", unroll, "a whole one")
        self.solver = solver
        self.coupling = as_coupling(coupling)
        stepped = self.coupling.adapt(solver)
        # the named ones take no differences of steps, or look at the spec before
        deterministic = isinstance(gradient, VectorJacobianProduct)
        self.gradient, self.truncated = as_product(gradient, "gradient"), False
        if self.coupling.network_first and isinstance(self.gradient, Detached | StraightThrough):
            self.truncated = isinstance(self.gradient, Detached)
            self.gradient = _product_within(self.gradient, as_product(within, "within"), solver, stepped)
        self.layer = SolverLayer(stepped, self.gradient, executor, on_failure, require_deterministic=deterministic)
        if trained_params is not None:
            self.layer.differentiated = Differentiated(trained_params.columns, *trained_params.bounds())
        self.corrector, self.trained_params = corrector, trained_params
        self.model = module_of(corrector, trained_params)
        self.unroll = unroll
        self.on_failure = self.layer.on_failure

    def __repr__(self) -> str:
        """Show the solver, the network and its size, trained parameters, and how training goes through the solver."""
        weights = sum(parameter.numel() for parameter in self.corrector.parameters())
        network = f"{type(self.corrector).__name__} of {weights:,} weights"
        if self.trained_params is not None:
            network += f", trained {', '.join(self.trained_params.values())}"
        return f"SolverLoop({self.solver!r},\n    {network}, unroll={self.unroll}, {self._gradient_words})"

    @property
    def _gradient_words(self) -> str:
        """Gradient of the solver, as a representation shows it."""
        return f"gradient={type(self.gradient).__name__}"

    @property
    def backward_steps(self) -> int:
        """States advanced so far for vector-Jacobian products."""
        return self.layer.backward_steps

    def with_solver(
        self,
        solver: Solver,
        gradient: SolverGradient | VectorJacobianProduct = "detached",
        on_failure: FailurePolicy | None = None,
    ) -> SolverLoop:
        """Return a loop of another solver, with the same corrector and trained parameters.

        Args:
            solver: Solver.
            gradient: Vector-Jacobian product of it, or its name.
            on_failure: Policy for solver steps that fail; that of this loop if None.
        """
        return SolverLoop(
            solver,
            self.corrector,
            self.unroll,
            gradient,
            on_failure=self.on_failure if on_failure is None else on_failure,
            coupling=self.coupling,
            trained_params=self.trained_params,
        )

    def advance(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """Take one step of the solver alone, `P(s)`: `(B, C, *N)` to `(B, C, *N)`, with the gradient that was chosen."""
        silent = states.new_zeros(len(states), *self.coupling.output_shape(self.solver.spec))
        taken = self.before(states, silent if self.coupling.network_first else None)
        params = self.scenario(states, params)
        return self.layer.step(taken, params, OWN_ROLLOUT)[0][:, : self.solver.spec.state_shape[0]]

    def correct(self, advanced: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        """Return the coupled states of a network that is asked after the solver: `P(s) + C(P(s); theta)`, `(B, C, *N)`."""
        return self.leave(advanced, None, params)

    def enter(self, states: torch.Tensor, params: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Begin a coupled step: return what the stepped solver takes, and the network's output if it is asked before."""
        states = states.detach() if self.truncated else states
        output = self._ask_network(states, params) if self.coupling.network_first else None
        return self.before(states, output), output

    def leave(self, advanced: torch.Tensor, output: torch.Tensor | None, params: torch.Tensor | None = None) -> torch.Tensor:
        """End a coupled step: return the states after it, `(B, C, *N)`.

        Args:
            advanced: States that the stepped solver gave.
            output: Output of the network, if it was asked before.
            params: Scenario parameters `(B, K)` or None.
        """
        output = self._ask_network(advanced, params) if output is None else output
        return self.after(advanced, output)

    def before(self, states: torch.Tensor, output: torch.Tensor | None) -> torch.Tensor:
        """Return what the stepped solver takes, as the coupling makes it of states `(B, C, *N)` and the network's output."""
        return self._couple("before", states, output, self.layer.solver.spec)

    def after(self, advanced: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the states one coupled step later, as the coupling makes them of what the solver gave and the network."""
        return self._couple("after", advanced, output, self.solver.spec)

    def _couple(self, method: str, states: torch.Tensor, output: torch.Tensor | None, made_for: SolverSpec) -> torch.Tensor:
        """Call a method of the coupling; one of a user's own gets copies, and must return states of a certain spec."""
        call, spec = getattr(self.coupling, method), self.solver.spec
        if isinstance(self.coupling, After | Before | Inside):
            made: torch.Tensor = call(states, output, spec)
            return made
        name = type(self.coupling).__name__
        with _explain_errors(f"coupling {name}", f" in {method}", states, f"{method}(states, output, spec), with tensors"):
            made = call(states.clone(), None if output is None else output.clone(), spec)
        return _require_tensor(f"{method} of coupling {name}", made, (len(states), *made_for.state_shape))

    def _ask_network(self, states: torch.Tensor, params: torch.Tensor | None) -> torch.Tensor:
        inputs = self.corrector_inputs(states, params)
        with explain_corrector_errors(inputs[0]):
            output = self.corrector(*inputs)
        return self.require_output(output, len(states))

    def corrector_inputs(self, states: torch.Tensor, params: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Copy the states that the network is asked for, and parameters, in its precision, on its device."""
        return as_input(self.corrector, states), None if params is None else as_input(self.corrector, params)

    def require_output(self, output: torch.Tensor, count: int) -> torch.Tensor:
        """Return an output of the network for so many states.

        Raises:
            ConfigError: It is none.
        """
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            what = output.dtype if isinstance(output, torch.Tensor) else type(output).__name__
            raise ConfigError(f"the corrector must return a tensor of real floating-point numbers, not {what}: convert it.")
        spec = self.solver.spec
        expected = (count, *self.coupling.output_shape(spec))
        if output.shape != expected:
            whose = "the solver's inputs, of" if self.coupling.of_inputs else "a correction of the states'"
            raise ConfigError(
                f"the corrector must return {whose} shape {expected}, "
                f"not {tuple(output.shape)}: check its padding and its output channels."
            )
        return output

    @torch.no_grad()
    def samples(self, states: Array, params: Array | None = None) -> Array:
        """Return what the stepped solver takes at states of the data, as varied as training may make it, to learn of it with.

        Args:
            states: States `(B, C, *N)`.
            params: Scenario parameters `(B, K)` or None.
        """
        if not self.coupling.network_first:
            return states
        given = as_tensor(states)
        output = self._ask_network(given, None if params is None else as_tensor(params))
        check_finite(to_array(output), f"what the network gives solver {self.solver.spec.name!r}", "check its weights")
        return to_array(self.coupling.samples(given, output, self.solver.spec))

    def sample_params(self, params: Array | None) -> Array | None:
        """Return scenario parameters `(B, K)` as varied as training may make those of them that are trained."""
        if params is None or self.trained_params is None:
            return params
        return to_array(self.trained_params.samples(as_tensor(params)))

    def rollout(
        self,
        states: torch.Tensor | Array,
        params: torch.Tensor | Array | None = None,
        steps: int | None = None,
        advanced: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Roll out the corrected loop from `states`; the initial states are left out of the result.

        Autograd can go back through the result if it was asked with tensors, as torch's own modules are; give tensors to train.
        Where all arguments are arrays, nothing is recorded: `rollout.numpy()` is an array.

        Args:
            states: States to start from, `(B, C, *N)`.
            params: Scenario parameters `(B, K)` or None.
            steps: Number of steps `T`; ``unroll`` if None.
            advanced: First solver step `P(states)`, `(B, C, *N)`, if it is known already: it does not depend on the network.

        Returns:
            Corrected trajectory, a tensor `(B, T, C, *N)`.

        Raises:
            ConfigError: No steps are asked for, or the correction has a wrong shape.
            SolverError: The solver failed.
        """
        return self.rollout_with_account(states, params, steps, advanced)[0]

    def rollout_with_account(
        self,
        states: torch.Tensor | Array,
        params: torch.Tensor | Array | None = None,
        steps: int | None = None,
        advanced: torch.Tensor | None = None,
        simulations: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Account]:
        """Roll out as :meth:`rollout` does, and tell what it took; an error that ends the rollout tells it too.

        Args:
            states: States to start from, `(B, C, *N)`.
            params: Scenario parameters `(B, K)` or None.
            steps: Number of steps; ``unroll`` if None.
            advanced: First solver step, if it is known already.
            simulations: Numbers of the simulations of the training data that the states are of, `(B,)`, for trained parameters
                that have a value for each.
        """
        steps = self.unroll if steps is None else steps
        require(is_count(steps), "a rollout needs a positive number of steps", steps, "a whole one")
        self.require_first_step(advanced)
        tensors = any(isinstance(given, torch.Tensor) for given in (states, params, advanced))
        with torch.set_grad_enabled(tensors and torch.is_grad_enabled()):
            given = as_tensor(states)
            scenario = self.scenario(given, None if params is None else as_tensor(params), simulations)
            return self._roll_out(given, scenario, steps, advanced)

    @property
    def knows_first_step(self) -> bool:
        """True if the first step of the solver depends on nothing that is trained."""
        return not self.coupling.network_first and self.trained_params is None

    def require_first_step(self, advanced: torch.Tensor | None) -> None:
        """Refuse a first step of the solver that depends on what is trained.

        Raises:
            ConfigError: It is given all the same.
        """
        require_that(
            advanced is None or self.knows_first_step,
            "the first step of the solver is known only where the network acts after it, and no parameters are trained: leave "
            "out advanced.",
        )

    @property
    def needs_simulations(self) -> bool:
        """True if trained parameters have a value for each simulation of the training data."""
        return self.trained_params is not None and self.trained_params.per_simulation

    def require_known_params(self) -> None:
        """Refuse to take scenario parameters of data where trained values of single simulations would be meant.

        Raises:
            ConfigError: There are such parameters.
        """
        require_that(
            not self.needs_simulations,
            "this loop was trained with parameters of a value per simulation, which data cannot tell: pass params with those "
            "of these simulations, as loop.trained_params.values() has them.",
        )

    def scenario(
        self, states: torch.Tensor, params: torch.Tensor | None, simulations: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return the scenario parameters that states are advanced with, those that are trained included, `(B, K)` or None.

        Args:
            states: States `(B, C, *N)`.
            params: Scenario parameters `(B, K)` or None.
            simulations: Numbers of the simulations of the training data, `(B,)`, or None.
        """
        if self.trained_params is None:
            return params
        scenario: torch.Tensor = self.trained_params(self.trained_params.complete(params, states), simulations)
        return scenario

    def _roll_out(
        self, states: torch.Tensor, params: torch.Tensor | None, steps: int, advanced: torch.Tensor | None
    ) -> tuple[torch.Tensor, Account]:
        trajectory, accounts = [], list[Account]()
        for number in range(steps):
            if advanced is None or number > 0:
                taken, output = self.enter(states, params)
                with add_account_to_error(accounts):
                    arrived, account = self.layer.step(taken, params, OWN_ROLLOUT)
                accounts.append(account)
            else:
                arrived, output = advanced, None
            states = self.leave(arrived, output, params)
            trajectory.append(states)
        return torch.stack(trajectory, dim=1), total(accounts)


def _product_within(
    product: Detached | StraightThrough, within: VectorJacobianProduct, solver: Solver, stepped: Solver
) -> VectorJacobianProduct:
    """Return the product of a step that a network acts on before or inside, which its own gradient passes in any case.

    Args:
        product: Product for the steps before.
        within: Product for that step.
        solver: Solver.
        stepped: Solver that is stepped.
    """
    if isinstance(product, Detached):
        return within
    has_inputs = stepped.spec.state_shape != solver.spec.state_shape
    return IdentityOfStates(within, solver.spec.state_shape[0]) if has_inputs else product


def as_tensor(given: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    """View an array as a tensor; copy one that must not be written, which torch cannot promise. A tensor stays as it is."""
    return torch.as_tensor(given.copy() if isinstance(given, np.ndarray) and not given.flags.writeable else given)


@contextmanager
def _explain_errors(who: str, where: str, states: torch.Tensor, how: str) -> Iterator[None]:
    """Turn exceptions of a user's code into a sentence; errors of ours pass.

    Args:
        who: Object whose code is called.
        where: Place in it, such as ` in after`, or nothing.
        states: States that it is called with, `(B, C, *N)`.
        how: Words on how it is called.

    Raises:
        ConfigError: It raised an exception.
    """
    try:
        yield
    except DeepZeroError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{who} raised {type(error).__name__}{where} on states of shape {tuple(states.shape)}: {error}; "
            f"it is called as {how}."
        ) from error


def _require_tensor(what: str, made: object, shape: tuple[int, ...]) -> torch.Tensor:
    """Return what a method of a coupling made, a tensor of that shape.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(made, torch.Tensor) and made.shape == shape:
        return made
    came = f"one of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
    raise ConfigError(
        f"{what} must return a tensor of shape {shape}, not {came}: check what it does to states and the network's output."
    )


def explain_corrector_errors(states: torch.Tensor) -> AbstractContextManager[None]:
    """Turn exceptions of a corrector's own code into a sentence; errors of ours pass.

    Args:
        states: States that it is called with, `(B, C, *N)`.
    """
    how = "corrector(states, params) and returns a correction of the states' shape"
    return _explain_errors("the corrector", "", states, how)
