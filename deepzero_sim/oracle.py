"""Oracles: parameters and a batch in, losses out. All that the estimators know of what is trained.

An oracle is asked for many perturbed parameter vectors at once, named by coordinate or seed and step, never as copies
of the weights. It computes once a batch what does not depend on the parameters, answers queries in chunks of a fixed
size, and deals the chunks out to an executor.
"""

from __future__ import annotations

import abc
import functools
import math
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import torch

from deepzero_sim.coupling import SolverLoop, to_array
from deepzero_sim.errors import ConfigError, DivergedError, NonFiniteError
from deepzero_sim.parallel import SerialExecutor, run_in_order
from deepzero_sim.perturbation import UNPERTURBED, Perturbation, chunked
from deepzero_sim.perturbed_model import PerturbedModel
from deepzero_sim.solver import check_states
from deepzero_sim.types import NamedTensors

#: `(outputs, targets) -> scalar`
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Tasks a worker that the chunks of one question are bundled into: enough to end together, few enough to send cheaply.
TASKS_PER_WORKER = 3


@dataclass(frozen=True)
class Answers:
    """What queries cost and gave.

    Args:
        losses: `(P,)`, float64, in the order asked.
        solver_steps: states advanced by one step to compute them.
    """

    losses: torch.Tensor
    solver_steps: int


class Oracle(abc.ABC):
    """A scalar loss of a network's parameters on a batch.

    Args:
        model: the network; its weights and buffers are the same, bit for bit, after any number of queries.
        loss: `(outputs, targets) -> scalar`.
        executor: where chunks of queries are answered; this thread if None.
        queries_per_chunk: perturbed networks evaluated as one batch.
    """

    def __init__(
        self, model: torch.nn.Module, loss: Loss, executor: Executor | None = None, queries_per_chunk: int = 16
    ) -> None:
        if queries_per_chunk < 1:
            raise ConfigError(f"queries_per_chunk must be a positive number, not {queries_per_chunk}.")
        self.model = model
        self.loss_function = loss
        self.executor = executor or SerialExecutor()
        self.queries_per_chunk = queries_per_chunk
        self._token = uuid.uuid4().hex

    @abc.abstractmethod
    def prepare(self, batch: Any) -> Any:
        """Compute what does not depend on the parameters, once a batch."""

    @abc.abstractmethod
    def preparation_steps(self, batch: Any) -> int:
        """Solver steps that :meth:`prepare` takes for this batch."""

    @abc.abstractmethod
    def evaluate(self, prepared: Any, perturbation: Perturbation) -> Answers:
        """Answer a chunk of queries, here and now."""

    @abc.abstractmethod
    def differentiable_loss(self, prepared: Any) -> tuple[torch.Tensor, int]:
        """The loss of the network as it is, recorded by autograd, and the solver steps it took."""

    def ask(self, prepared: Any, perturbations: Sequence[Perturbation]) -> Answers:
        """Answer queries, wherever the executor runs them.

        Raises:
            SolverError: the solver failed in one of them; with several failures, the first in the order asked.
        """
        chunks = chunked(perturbations, self.queries_per_chunk)
        # bundling changes nothing of what is computed; an executor that does not tell its size is taken to have four workers
        size = math.ceil(len(chunks) / (TASKS_PER_WORKER * getattr(self.executor, "_max_workers", 4)))
        tasks = [chunks[i : i + size] for i in range(0, len(chunks), size)]
        answers = []
        for outcome in run_in_order(self.executor, self._task(prepared), tasks):
            if isinstance(outcome, Exception):
                raise outcome
            answers.append(outcome)
        return _joined(answers)

    def loss(self, prepared: Any) -> Answers:
        """The loss of the network as it is, `(1,)`.

        Raises:
            DivergedError: it is not finite.
        """
        answers = self.ask(prepared, [UNPERTURBED])
        require_finite(float(answers.losses[0]))
        return answers

    def _loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = self.loss_function(outputs, targets)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or loss.is_complex():
            what = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise ConfigError(f"the loss must return a tensor of one real number, not {what}: reduce it, by .mean() for one.")
        return loss.reshape(())

    def _task(self, prepared: Any) -> Callable[[list[Perturbation]], Answers]:
        if isinstance(self.executor, SerialExecutor):
            return functools.partial(_evaluate_all, self, prepared)
        training = tuple(module.training for module in self.model.modules())
        state = _NetworkState(training, {k: v.cpu() for k, v in self.model.state_dict().items()})
        return functools.partial(_evaluate_remotely, self._token, self._pickled, state, prepared)

    @functools.cached_property
    def _pickled(self) -> bytes:
        """Solver, network and loss for the workers, which keep it; the network's state goes along with every task.

        Raises:
            ConfigError: something in them cannot be pickled.
        """
        try:
            pickled: bytes = cloudpickle.dumps(self)
        except Exception as error:
            raise ConfigError(
                "solver, network and loss must be picklable to be sent to workers, but pickling raised "
                f"{type(error).__name__}: {error}; use the serial executor, or open files and connections only in the step."
            ) from error
        return pickled

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "executor": SerialExecutor()}


class _NetworkState(NamedTuple):
    """Whether each module is in training mode, and the state dict."""

    training: tuple[bool, ...]
    tensors: NamedTensors


#: How many oracles a worker keeps, such as those of training and validation.
KEPT = 4

_worker = threading.local()


def _unpickled(token: str, pickled: bytes) -> Oracle:
    """A copy for each thread: a query replaces parameters of the network for a moment, which no other may see."""
    kept: dict[str, Oracle] = _worker.__dict__.setdefault("oracles", {})
    if token not in kept:
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)))
        kept[token] = cloudpickle.loads(pickled)
    return kept[token]


def _evaluate_remotely(token: str, pickled: bytes, state: _NetworkState, prepared: Any, chunks: list[Perturbation]) -> Answers:
    oracle = _unpickled(token, pickled)
    for module, training in zip(oracle.model.modules(), state.training, strict=True):
        module.training = training
    oracle.model.load_state_dict(state.tensors)
    return _evaluate_all(oracle, prepared, chunks)


def _evaluate_all(oracle: Oracle, prepared: Any, chunks: list[Perturbation]) -> Answers:
    with torch.no_grad():
        return _joined([oracle.evaluate(prepared, chunk) for chunk in chunks])


def _joined(answers: Sequence[Answers]) -> Answers:
    return Answers(torch.cat([a.losses for a in answers]), sum(a.solver_steps for a in answers))


def require_finite(loss: float) -> None:
    """Raise :class:`DivergedError` unless the base loss is finite."""
    if not torch.isfinite(torch.tensor(loss)):
        raise DivergedError(
            f"the loss must be finite, got {loss}: the network diverged; start again with a smaller learning rate, "
            "or from an earlier checkpoint."
        )


def _described(batch: Any) -> str:
    return f"{len(batch)} entries" if isinstance(batch, Sequence) else type(batch).__name__


class LoopBatch(NamedTuple):
    """A batch of a solver loop, its first solver step already taken.

    Args:
        states: `(B, C, *N)`, where the rollouts start.
        params: `(B, K)` or None.
        references: `(B, T, C, *N)`, what the rollouts should give.
        advanced: `(B, C, *N)`, the solver's first step from `states`: the same for every query.
    """

    states: torch.Tensor
    params: torch.Tensor | None
    references: torch.Tensor
    advanced: torch.Tensor


class LoopOracle(Oracle):
    """The loss of a corrected rollout. Batches are `(states, params, references)`, with `advanced` as a fourth if it is known.

    Args:
        loop: solver and corrector.
        loss: `(rollout (B, T, C, *N), references (B, T, C, *N)) -> scalar`.
        executor: where chunks of queries are answered; this thread if None.
        queries_per_chunk: perturbed networks evaluated as one batch, `P`: solver calls then advance `P * B` states.
    """

    def __init__(self, loop: SolverLoop, loss: Loss, executor: Executor | None = None, queries_per_chunk: int = 16) -> None:
        super().__init__(loop.corrector, loss, executor, queries_per_chunk)
        if isinstance(executor, ThreadPoolExecutor) and not loop.solver.spec.thread_safe:
            raise ConfigError(
                f"solver {loop.solver.spec.name!r} may not be called by several threads at once: "
                "use the process or the serial executor."
            )
        self.loop = loop

    def prepare(self, batch: Any) -> LoopBatch:
        if not isinstance(batch, Sequence) or len(batch) not in (3, 4):
            raise ConfigError(
                f"a batch must be (states, params, references) or with advanced as a fourth, not {_described(batch)}."
            )
        states, params, references, *known = batch
        states, references = torch.as_tensor(states), torch.as_tensor(references)
        params = None if params is None else torch.as_tensor(params)
        self._check(states, references)
        with torch.no_grad():
            advanced = torch.as_tensor(known[0]) if known else self.loop.advance(states, params)
        check_states(self.loop.solver.spec, to_array(advanced), "the batch's advanced states", "check the data", len(states))
        return LoopBatch(states, params, references, advanced)

    def preparation_steps(self, batch: Any) -> int:
        return 0 if len(batch) > 3 else len(batch[0])

    def _check(self, states: torch.Tensor, references: torch.Tensor) -> None:
        spec = self.loop.solver.spec
        check_states(spec, to_array(states), "the batch's states", "check the data")
        expected = (len(states), self.loop.unroll, *spec.state_shape)
        if references.shape != expected:
            raise ConfigError(
                f"a batch's references must have shape (batch, unroll, channels, ...) = {expected}, "
                f"not {tuple(references.shape)}: cut them to the loop's unroll."
            )
        if not bool(torch.isfinite(references).all()):
            raise NonFiniteError("a batch's references must be finite, but they hold NaN or infinity: check the data.")

    def evaluate(self, prepared: LoopBatch, perturbation: Perturbation) -> Answers:
        count, size = len(perturbation), len(prepared.states)
        rollout = self.loop.rollout(
            _repeated(prepared.states, count),
            None if prepared.params is None else _repeated(prepared.params, count),
            advanced=_repeated(prepared.advanced, count),
            corrector=PerturbedModel(self.model, perturbation),
        )
        losses = [self._loss(block, prepared.references) for block in torch.split(rollout, size)]
        return Answers(torch.stack(losses).double(), count * size * (self.loop.unroll - 1))

    def differentiable_loss(self, prepared: LoopBatch) -> tuple[torch.Tensor, int]:
        rollout = self.loop.rollout(prepared.states, prepared.params, advanced=prepared.advanced)
        return self._loss(rollout, prepared.references), len(prepared.states) * (self.loop.unroll - 1)


def _repeated(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """`(B, ...)` to `(count * B, ...)`, the whole batch again and again."""
    return tensor.repeat(count, *[1] * (tensor.dim() - 1))


class ModelOracle(Oracle):
    """The loss of a plain network. Batches are `(inputs, targets)`.

    Args:
        model: called as ``model(inputs)``.
        loss: `(outputs, targets) -> scalar`, such as ``torch.nn.functional.cross_entropy``.
        executor: where chunks of queries are answered; this thread if None.
        queries_per_chunk: perturbed networks evaluated as one batch.
    """

    def prepare(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise ConfigError(f"a batch must be (inputs, targets), not {_described(batch)}.")
        inputs, targets = batch
        return torch.as_tensor(inputs), torch.as_tensor(targets)

    def preparation_steps(self, batch: Any) -> int:
        return 0

    def evaluate(self, prepared: tuple[torch.Tensor, torch.Tensor], perturbation: Perturbation) -> Answers:
        inputs, targets = prepared
        outputs = PerturbedModel(self.model, perturbation)(_repeated(inputs, len(perturbation)))
        losses = [self._loss(block, targets) for block in outputs.chunk(len(perturbation))]
        return Answers(torch.stack(losses).double(), 0)

    def differentiable_loss(self, prepared: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, int]:
        inputs, targets = prepared
        return self._loss(self.model(inputs), targets), 0
