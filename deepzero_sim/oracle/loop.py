"""The loss of a corrected rollout as an oracle: perturbed networks are rolled out side by side, step by step."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import torch
from torch.func import functional_call

from deepzero_sim.common.requirements import require_type
from deepzero_sim.common.types import Array, to_array
from deepzero_sim.coupling.loop import OWN_ROLLOUT, SolverLoop, explain_corrector_errors
from deepzero_sim.coupling.trained_params import PARAMS
from deepzero_sim.errors import ConfigError, NonFiniteError
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.base import Loss, Oracle, as_batch_tensor, describe_batch
from deepzero_sim.oracle.loss_module import NetworkWithLoss
from deepzero_sim.oracle.parameters import perturbed_parameters, trainable
from deepzero_sim.oracle.perturbed_network import PerturbedNetwork, UnperturbedPass
from deepzero_sim.oracle.queries import Perturbation, name_query
from deepzero_sim.oracle.residuals import ResidualRequest, residual_model
from deepzero_sim.solver.contract import require_thread_safe
from deepzero_sim.solver.failure_policy import Account, FailurePolicy, Incident, add_account_to_error, drop, total
from deepzero_sim.solver.stepping import StepResult, step_with_policy
from deepzero_sim.solver.validation import check_states

#: Inputs of the corrector at one step: advanced states and parameters, in its own precision.
_Inputs = tuple[torch.Tensor, torch.Tensor | None]


class LoopBatch(NamedTuple):
    """A batch of a solver loop, rolled out with the unperturbed network.

    Args:
        states: States that the rollouts start from, `(B, C, *N)`.
        params: Scenario parameters `(B, K)` or None, with the unperturbed values of those that are trained.
        references: References that the rollouts should give, `(B, T, C, *N)`.
        advanced: First solver step from `states`, `(B, C, *N)`: the same for every query, unless it depends on what is trained.
        rollout: Rollout of the unperturbed network, `(B, T, C, *N)`.
        inputs: Inputs of the corrector, step by step.
        arrived: States that the stepped solver gave, step by step; none where they are these inputs.
        loss: Loss of the rollout.
        token: Name of the batch and the network's state.
        account: Cost of the rollout.
        simulations: Numbers of the simulations in the training data, `(B,)`; None where nothing depends on them.
    """

    states: torch.Tensor
    params: torch.Tensor | None
    references: torch.Tensor
    advanced: torch.Tensor
    rollout: torch.Tensor
    inputs: list[_Inputs]
    arrived: list[torch.Tensor]
    loss: float
    token: str
    account: Account
    simulations: torch.Tensor | None = None


class LoopOracle(Oracle):
    """The loss of a corrected rollout.

    Batches are `(states, params, references)`, with `advanced` as a fourth if it is known, and as a fifth the numbers of the
    simulations of the training data, `(B,)`, for trained parameters of one value a simulation.

    Args:
        loop: Solver and corrector.
        loss: Function `(rollout (B, T, C, *N), references (B, T, C, *N)) -> scalar`.
        executor: Executor that answers chunks of queries; this thread if None.
        queries_per_chunk: Number of perturbed networks evaluated as one batch, `P`: solver calls then advance `P * B` states.
        unrolls: Numbers of steps that rollouts may have besides the loop's own, if they grow.
        unobserved: True if references may be NaN where a value was not observed, which the loss leaves out.
    """

    def __init__(
        self,
        loop: SolverLoop,
        loss: Loss,
        executor: Executor | None = None,
        queries_per_chunk: int = 16,
        unrolls: Collection[int] = (),
        unobserved: bool = False,
    ) -> None:
        require_type(loop, SolverLoop, "a LoopOracle asks a dz.SolverLoop", "dz.ModelOracle asks a network")
        super().__init__(loop.model, loss, executor, queries_per_chunk, loop.on_failure)
        require_thread_safe(loop.solver, executor)
        self.loop = loop
        self._unrolls, self._unobserved = tuple(unrolls), unobserved
        self._corrector = PerturbedNetwork(loop.model, in_loop=True)
        self._loss = NetworkWithLoss(None, loss)
        self._rollout_loss = PerturbedNetwork(None, self._loss)

    @torch.no_grad()
    def prepare(self, batch: Any) -> LoopBatch:
        states, given, references, known, simulations = self._tensors(batch)
        passes, inputs, trajectory, accounts = list[UnperturbedPass](), list[_Inputs](), [], list[Account]()
        loop, current, advanced, every = self.loop, states, known, list[torch.Tensor]()
        params = loop.scenario(states, given, simulations)
        for step in range(references.shape[1]):
            output = None
            if loop.coupling.network_first:
                output = self._record(current, params, inputs, passes)
            if known is not None and step == 0:
                arrived = known
            else:
                taken = loop.before(current, output)
                with add_account_to_error(accounts):
                    arrived, account = loop.layer.step(taken, params, OWN_ROLLOUT)
                accounts.append(account)
            advanced = arrived if advanced is None else advanced
            if output is None:
                output = self._record(arrived, params, inputs, passes)
            every.append(arrived)
            current = loop.after(arrived, output)
            trajectory.append(current)
        assert advanced is not None
        rollout = torch.stack(trajectory, dim=1)
        loss = self._rollout_loss.unperturbed_pass(rollout, references)
        token = uuid.uuid4().hex
        self._passes.put(token, (passes, loss))
        found, kept = float(loss.result), every if loop.coupling.network_first else []
        cost = total(accounts)
        return LoopBatch(states, params, references, advanced, rollout, inputs, kept, found, token, cost, simulations)

    def _record(
        self, states: torch.Tensor, params: torch.Tensor | None, inputs: list[_Inputs], passes: list[UnperturbedPass]
    ) -> torch.Tensor:
        """Ask the unperturbed network, and add its inputs and its pass to those of the steps before."""
        inputs.append(self.loop.corrector_inputs(states, params))
        with explain_corrector_errors(inputs[-1][0]):
            passes.append(self._corrector.unperturbed_pass(*inputs[-1]))
        return self.loop.require_output(passes[-1].result, len(states))

    def preparation_steps(self, batch: Any) -> int:
        steps = self.loop.unroll
        if self._unrolls:  # rollouts of several lengths, which the references tell
            steps = int(batch[2].shape[1])
        known = len(batch) > 3 and batch[3] is not None
        return len(batch[0]) * (steps - 1 if known else steps)

    def _tensors(
        self, batch: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        numbered = self.loop.needs_simulations
        if not isinstance(batch, Sequence) or len(batch) not in ((5,) if numbered else (3, 4)):
            form = "(states, params, references) or with advanced as a fourth"
            if numbered:
                form = "(states, params, references, None, simulations) for parameters with a value a simulation"
            raise ConfigError(f"a batch must be {form}, not {describe_batch(batch)}.")
        entries = (None if x is None else as_batch_tensor(x) for x in (*batch, None, None)[:5])
        states, params, references, advanced, simulations = entries
        if states is None or references is None:
            raise ConfigError("a batch needs states and references: only params may be None.")
        spec = self.loop.solver.spec
        check_states(spec, to_array(states), "the batch's states", "check the data")
        fitting = [(len(states), unroll, *spec.state_shape) for unroll in (self.loop.unroll, *self._unrolls)]
        if references.shape not in fitting:
            raise ConfigError(
                f"a batch's references must have shape (batch, unroll, channels, ...) = {fitting[0]}, "
                f"not {tuple(references.shape)}: cut them to the loop's unroll."
            )
        usable = ~references.isinf() if self._unobserved else references.isfinite()
        if not bool(usable.all()):
            raise NonFiniteError("a batch's references must be finite, but they hold NaN or infinity: check the data.")
        self.loop.require_first_step(advanced)
        if advanced is not None:
            check_states(spec, to_array(advanced), "the batch's advanced states", "check the data", len(states))
        return states, params, references, advanced, simulations

    def metrics(self) -> dict[str, Any]:
        trained = self.loop.trained_params
        return {} if trained is None else {"params": trained.values()}

    @property
    def backward_account(self) -> Account:
        return self.loop.layer.probes.account

    def state_dict(self) -> dict[str, torch.Tensor]:
        with warnings.catch_warnings():  # a product gives views that are only to be read, and a checkpoint copies them
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            return {name: torch.from_numpy(array) for name, array in self.loop.gradient.state_dict().items()}

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        self.loop.gradient.load_state_dict({name: to_array(tensor) for name, tensor in state_dict.items()})

    def residuals(self, prepared: LoopBatch) -> torch.Tensor:
        return residual_model(self.loss_function).base(prepared.rollout, prepared.references)

    def evaluate(
        self,
        prepared: LoopBatch,
        perturbation: Perturbation,
        only: Collection[int] | None = None,
        request: ResidualRequest | None = None,
    ) -> Answers:
        """Roll out the perturbed networks of a chunk side by side, and compare with the unperturbed rollout.

        A dropped query follows the unperturbed trajectory, which keeps array shapes fixed and every other query as if nothing
        had happened.
        """
        count, size, accounts = len(perturbation), len(prepared.states), list[Account]()
        passes, loss = self._passes.get(prepared.token, lambda: self._unperturbed_passes(prepared))
        dropped = set() if only is None else set(range(count)) - set(only)
        params = self._params_of_queries(prepared, perturbation)
        loop = self.loop
        first, shared = loop.coupling.network_first, loop.knows_first_step
        states, trajectory = _repeat(prepared.states, count), []
        for t in range(len(passes)):
            output = self._outputs(passes[t], perturbation, None if t == 0 else states, params) if first else None
            if t == 0 and shared:
                arrived = _repeat(prepared.advanced, count)
            else:
                rows = [query * size + b for query in range(count) if query not in dropped for b in range(size)]
                queries = [row // size for row in rows]

                def where(place: int, queries: Sequence[int] = queries) -> str:
                    return f"at {name_query(perturbation, queries[place])}"

                given = None if params is None else to_array(_select(params, rows))
                taken = loop.before(states, output)
                result = step_with_policy(loop.layer.solver, to_array(_select(taken, rows)), given, self.on_failure, where)
                accounts += [result.account, _drop_failures(result, queries, where, self.on_failure, dropped)]
                unperturbed = prepared.arrived[t] if first else prepared.inputs[t][0]
                arrived = _put(result.states, rows, unperturbed, taken, dropped)
            if output is None:
                output = self._outputs(passes[t], perturbation, None if t == 0 and shared else arrived, params)
            states = loop.after(arrived, output)
            trajectory.append(states)
        moved = torch.unflatten(torch.stack(trajectory, dim=1), 0, (count, size)) - prepared.rollout
        changes = self._rollout_loss.changes(loss, None, [moved]).double()
        left_out = sorted(dropped)
        changes[left_out] = 0
        residuals = None
        if request is not None:
            model = residual_model(self.loss_function)
            residuals = request.project(model.changes(prepared.rollout, prepared.references, moved))
            residuals[left_out] = 0
        cost = total(accounts)
        return Answers(changes, prepared.loss, cost.steps, tuple(left_out), cost.incidents, residuals)

    def _params_of_queries(self, prepared: LoopBatch, perturbation: Perturbation) -> torch.Tensor | None:
        """Return the scenario parameters of every query, `(P * B, K)`, or None."""
        params, trained = prepared.params, self.loop.trained_params
        if params is None or trained is None:
            return None if params is None else _repeat(params, len(perturbation))
        found = []
        for changed in perturbed_parameters(trainable(self.model), perturbation):
            ours = {name.removeprefix(PARAMS): value for name, value in changed.items() if name.startswith(PARAMS)}
            found.append(functional_call(trained, ours, (params, prepared.simulations)) if ours else params)
        return torch.cat(found)

    def _outputs(
        self,
        unperturbed: UnperturbedPass,
        perturbation: Perturbation,
        states: torch.Tensor | None,
        params: torch.Tensor | None,
    ) -> torch.Tensor:
        """Ask the perturbed networks of a chunk, `(P * B, *shape)`.

        Args:
            unperturbed: Pass of the unperturbed network.
            perturbation: Queries, `P` of them.
            states: States that they are asked for, `(P * B, C, *N)`; None for those of the unperturbed one.
            params: Scenario parameters of the queries, `(P * B, K)`, or None.
        """
        moved: list[torch.Tensor | None] = [None, None]
        if states is not None:
            moved[0] = self._change_of(self.loop.corrector_inputs(states, None)[0], unperturbed.inputs[0], len(perturbation))
        if params is not None and self.loop.trained_params is not None:
            moved[1] = self._change_of(self.loop.corrector_inputs(params, None)[0], unperturbed.inputs[1], len(perturbation))
        with explain_corrector_errors(unperturbed.inputs[0]):
            changes = self._corrector.changes(unperturbed, perturbation, moved)
        return (unperturbed.result + changes).flatten(0, 1)

    @staticmethod
    def _change_of(given: torch.Tensor, unperturbed: torch.Tensor, count: int) -> torch.Tensor:
        """Return by how much an input of each query differs from that of the unperturbed network, `(P, B, ...)`."""
        return torch.unflatten(given, 0, (count, -1)) - unperturbed

    def _unperturbed_passes(self, prepared: LoopBatch) -> tuple[list[UnperturbedPass], UnperturbedPass]:
        passes = [self._corrector.unperturbed_pass(*inputs) for inputs in prepared.inputs]
        return passes, self._rollout_loss.unperturbed_pass(prepared.rollout, prepared.references)

    def differentiable_loss(self, batch: Any) -> tuple[torch.Tensor, Account]:
        states, params, references, advanced, simulations = self._tensors(batch)
        rollout, account = self.loop.rollout_with_account(states, params, references.shape[1], advanced, simulations)
        return self._loss(rollout, references.clone()), account  # a loss may write into them


def _repeat(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Repeat a whole batch again and again: `(B, ...)` to `(count * B, ...)`."""
    return tensor.repeat(count, *[1] * (tensor.dim() - 1))


def _select(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Select rows; all of them, as nearly always, without a copy."""
    return tensor if len(rows) == len(tensor) else tensor[list(rows)]


def _drop_failures(
    result: StepResult, queries: Sequence[int], where: Callable[[int], str], policy: FailurePolicy, dropped: set[int]
) -> Account:
    """Drop the queries whose states failed.

    Args:
        result: Step of the states.
        queries: Query that each state belongs to.
        where: Function that says in words which query the state of a place belongs to.
        policy: Policy that says whether they may be dropped.
        dropped: Places of the dropped queries, which is added to.

    Raises:
        SolverError: The policy ends the run.
    """
    incidents: list[Incident] = []
    for place, error in sorted(result.failures.items()):
        if queries[place] not in dropped:  # by another of its states
            incidents.append(drop(error, policy, where(place)))
            dropped.add(queries[place])
    return Account(0, tuple(incidents))


def _put(
    advanced: Array, rows: Sequence[int], unperturbed: torch.Tensor, states: torch.Tensor, dropped: Collection[int]
) -> torch.Tensor:
    """Put advanced states in their rows, `(P * B, C, *N)`; those of dropped queries follow the unperturbed network.

    Args:
        advanced: Advanced states of the rows, `(R, C, *N)`.
        rows: Rows that were advanced, of queries some of which may have been dropped by now.
        unperturbed: Advanced states of the unperturbed network, `(B, C, *N)`.
        states: States before the step, whose type and device the result has.
        dropped: Places of dropped queries.
    """
    arrived = torch.from_numpy(advanced).to(states.device)
    if not dropped:
        return arrived
    size = len(unperturbed)
    whole = _repeat(unperturbed.to(states), len(states) // size)
    left = [i for i, row in enumerate(rows) if row // size not in dropped]
    whole[[rows[i] for i in left]] = arrived[left]
    return whole
