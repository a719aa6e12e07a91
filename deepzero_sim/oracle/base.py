"""The contract of an oracle: parameters and a batch in, losses out. All that the estimators know of what is trained.

An oracle is asked for many perturbed parameter vectors at once, named by coordinate or seed and step, never as copies of the
weights. It computes once a batch what does not depend on the parameters, and answers queries in chunks of a fixed size, which
are dealt out to an executor (`dispatch.py`). What it answers is by how much the loss changes.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from typing import Any, TypeAlias

import torch

from deepzero_sim.common.requirements import is_count, require, require_executor, require_type
from deepzero_sim.errors import ConfigError, DivergedError
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.dispatch import deal, deal_in_portions
from deepzero_sim.oracle.ledger import Ledger
from deepzero_sim.oracle.queries import Perturbation, split_into_chunks
from deepzero_sim.oracle.remote import PassCache, SentOracle
from deepzero_sim.oracle.residuals import ResidualRequest
from deepzero_sim.solver.failure_policy import Account, FailurePolicy

#: `(outputs, targets) -> scalar`
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Oracle(abc.ABC):
    """A scalar loss of a network's parameters on a batch.

    Args:
        model: Network; its weights and buffers are the same, bit for bit, after any number of queries.
        loss: Function `(outputs, targets) -> scalar`.
        executor: Executor that answers chunks of queries; this thread if None.
        queries_per_chunk: Number of perturbed networks evaluated as one batch.
        on_failure: Policy for solver steps that fail.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        executor: Executor | None = None,
        queries_per_chunk: int = 16,
        on_failure: FailurePolicy | None = None,
    ) -> None:
        require(is_count(queries_per_chunk), "queries_per_chunk must be a positive number", queries_per_chunk, "a whole one")
        require_type(model, torch.nn.Module, "an oracle asks a torch.nn.Module", "wrap a function in one")
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise ConfigError("a network that was scripted or traced hides its parameters: take the module it was made from.")
        if not callable(loss):
            raise ConfigError(f"a loss must be callable as loss(outputs, targets), but {loss!r} is not.")
        require_executor(executor)
        self.model = model
        self.loss_function = loss
        self.executor = SerialExecutor() if executor is None else executor
        self.queries_per_chunk = queries_per_chunk
        self.on_failure = FailurePolicy() if on_failure is None else on_failure
        self._sent = SentOracle()
        self._passes = PassCache()

    @abc.abstractmethod
    def prepare(self, batch: Any) -> Any:
        """Compute the loss of the unperturbed network, `loss`, and all else that queries have in common, at the cost `account`.

        Raises:
            SolverError: The solver failed; the error's account tells what was done before.
        """

    @abc.abstractmethod
    def preparation_steps(self, batch: Any) -> int:
        """Count the solver steps that :meth:`prepare` takes for this batch if none fails."""

    @abc.abstractmethod
    def residuals(self, prepared: Any) -> torch.Tensor:
        """Compute the residuals of the unperturbed network's loss, float64 `(m,)`: see `residuals.py`.

        Raises:
            ConfigError: The loss has none.
        """

    @abc.abstractmethod
    def evaluate(
        self,
        prepared: Any,
        perturbation: Perturbation,
        only: Collection[int] | None = None,
        request: ResidualRequest | None = None,
    ) -> Answers:
        """Answer a chunk of queries, here and now.

        Args:
            prepared: Any as :meth:`prepare` gave it.
            perturbation: Queries.
            only: Places of those for which the solver is asked; None for all. Nothing that is answered depends on it.
            request: Request for changes of residuals; None for none.
        """

    @abc.abstractmethod
    def differentiable_loss(self, batch: Any) -> tuple[torch.Tensor, Account]:
        """Compute the loss of the unperturbed network, recorded by autograd, and what it cost."""

    @property
    def backward_account(self) -> Account:
        """Cost of back-propagation so far, through losses of :meth:`differentiable_loss`. It only grows."""
        return Account()

    @property
    def backward_steps(self) -> int:
        """Solver steps that back-propagation has taken so far."""
        return self.backward_account.steps

    def metrics(self) -> dict[str, Any]:
        """Return what is logged with every training step besides its loss and costs, by name, as JSON holds it."""
        return {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors that a checkpoint must keep besides the network, by name: what back-propagation has learnt of a solver."""
        return {}

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:  # noqa: B027 - most have learnt nothing
        """Restore what :meth:`state_dict` gave."""

    def chunks(self, prepared: Any, perturbations: Sequence[Perturbation]) -> list[Perturbation]:
        """Split the queries into the batches that they are evaluated in, whoever does it."""
        return split_into_chunks(perturbations, self.queries_per_chunk)

    def cost(self, prepared: Any, chunk: Perturbation) -> float:
        """Estimate how long a chunk takes, in any unit."""
        return len(chunk)

    def ask(
        self,
        prepared: Any,
        perturbations: Sequence[Perturbation],
        ledger: Ledger | None = None,
        request: ResidualRequest | None = None,
    ) -> Answers:
        """Answer queries, wherever the executor runs them.

        Args:
            prepared: Any as :meth:`prepare` gave it.
            perturbations: Queries.
            ledger: File that answers to a long question are kept in on the way, without residuals; None for nowhere.
            request: Request for changes of residuals; None for none.

        Raises:
            SolverError: The solver failed in one of them, and the failure policy does not leave it out; with several failures,
                the first in the order asked.
        """
        chunks = self.chunks(prepared, perturbations)
        costs = [self.cost(prepared, chunk) for chunk in chunks]
        task = self._sent.task(self, prepared, request)
        if ledger is None:
            return deal(self, task, chunks, costs, prepared.loss)
        return deal_in_portions(self, task, chunks, costs, prepared.loss, ledger)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "executor": SerialExecutor(), "_sent": SentOracle(), "_passes": PassCache()}


def require_finite(loss: float) -> None:
    """Raise :class:`DivergedError` unless the unperturbed loss is finite."""
    if not torch.isfinite(torch.tensor(loss)):
        raise DivergedError(
            f"the loss must be finite, got {loss}: the network diverged; start again with a smaller learning rate, "
            "or from an earlier checkpoint."
        )


def as_batch_tensor(x: Any) -> torch.Tensor:
    """Convert an entry of a batch to a tensor.

    Raises:
        ConfigError: It holds no numbers, or a tensor that is not dense.
    """
    try:
        tensor = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"a batch must hold tensors or arrays of numbers, not {type(x).__name__}.") from error
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        raise ConfigError(f"a batch must hold dense tensors with values, not {tensor.layout} on {tensor.device}.")
    return tensor


def describe_batch(batch: Any) -> str:
    """Describe a batch that is of no use, for people."""
    return f"{len(batch)} entries" if isinstance(batch, Sequence) else type(batch).__name__
