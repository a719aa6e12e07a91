"""Oracles: parameters and a batch in, losses out. All that the estimators know of what is trained.

An oracle is asked for many perturbed parameter vectors at once, named by coordinate or seed and step, never as copies
of the weights. It computes once a batch what does not depend on the parameters, answers queries in chunks of a fixed
size, and deals the chunks out to an executor. What it answers is by how much the loss changes.
"""

from __future__ import annotations

import abc
import bisect
import functools
import hashlib
import io
import itertools
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import cloudpickle
import torch

from deepzero_sim.common.module_state import copy_tensors
from deepzero_sim.common.types import NamedTensors, is_integer, to_array
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.errors import ConfigError, DivergedError, NonFiniteError, WorkerLostError
from deepzero_sim.execution.executors import (
    SerialExecutor,
    can_revive,
    kept_in_worker,
    pickling_for_workers,
    require_thread_safe,
    run_in_order,
)
from deepzero_sim.oracle.answers import Answers, joined
from deepzero_sim.oracle.ledger import Ledger, Portion
from deepzero_sim.oracle.loss_module import NetworkWithLoss
from deepzero_sim.oracle.perturbed_network import Base, Footprint, QueriedNetwork
from deepzero_sim.oracle.queries import Coordinates, Perturbation, chunked, parts_of
from deepzero_sim.oracle.surviving import Surviving
from deepzero_sim.oracle.worker_loss import answered_one_by_one
from deepzero_sim.solver.contract import check_states
from deepzero_sim.solver.failure_policy import FailureLog, FailurePolicy, Incident

#: `(outputs, targets) -> scalar`
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: What differences are carried in: the network's own dtype, or bfloat16, which rounds them but not what they differ from.
Precision: TypeAlias = Literal["float32", "bfloat16"]

#: Bytes of differences in a chunk, by type of device. On CPUs 32 MiB, of 4 to 32, were the fastest for ResNet-20 at batch 64,
#: though not by much: eight queries behind its last convolutions. On a GPU nothing was measured yet: enough that launches
#: should not matter.
WORKING_SET = defaultdict(lambda: 2**30, cpu=32 * 2**20)

#: Perturbed networks evaluated as one batch, at most.
MOST_QUERIES = 256

#: What its tasks take, one after the other, of a worker's part of a question: ever less, so that workers end together however
#: well their speed was known, and few of them, since they take time to be sent.
SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16)


def bundled(chunks: Sequence[Perturbation], costs: Sequence[float], workers: int) -> list[list[Perturbation]]:
    """Chunks in order, in tasks of about the costs that :data:`SHARES` says. Bundling changes nothing of what is computed."""
    part = sum(costs) / workers
    ends = list(itertools.accumulate(part * share for share in SHARES for _ in range(workers)))
    bundles: list[list[Perturbation]] = [[] for _ in ends]
    spent = 0.0
    for chunk, cost in zip(chunks, costs, strict=True):
        bundles[min(bisect.bisect(ends, spent + cost / 2), len(ends) - 1)].append(chunk)
        spent += cost
    return [bundle for bundle in bundles if bundle]


#: Names something, and holds it as bytes.
_Named: TypeAlias = tuple[str, bytes]

#: Answers chunks, here or in a worker; of every chunk only the places that `only` says, if it does.
_Task: TypeAlias = Callable[..., Answers]


class Prepared(Protocol):
    """A batch, with what does not depend on the perturbation computed."""

    @property
    def loss(self) -> float:
        """`l(theta)`, of the network as it is."""


class Oracle(abc.ABC):
    """A scalar loss of a network's parameters on a batch.

    Args:
        model: the network; its weights and buffers are the same, bit for bit, after any number of queries.
        loss: `(outputs, targets) -> scalar`.
        executor: where chunks of queries are answered; this thread if None.
        queries_per_chunk: perturbed networks evaluated as one batch.

    Attributes:
        ledger: where the answers to long questions are kept on the way, None for nowhere; a trainer sets it.
        on_failure: what is done when a solver step fails.
        log: failures since it was last looked at.
    """

    def __init__(
        self, model: torch.nn.Module, loss: Loss, executor: Executor | None = None, queries_per_chunk: int = 16
    ) -> None:
        if not is_integer(queries_per_chunk) or queries_per_chunk < 1:
            raise ConfigError(f"queries_per_chunk must be a positive number, not {queries_per_chunk!r}: a whole one.")
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(f"an oracle asks a torch.nn.Module, not {type(model).__name__}: wrap a function in one.")
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise ConfigError("a network that was scripted or traced hides its parameters: take the module it was made from.")
        if not callable(loss):
            raise ConfigError(f"a loss must be callable as loss(outputs, targets), but {loss!r} is not.")
        if executor is not None and not hasattr(executor, "submit"):
            raise ConfigError(f"an executor must have submit, as those of dz.open_executor do, but {executor!r} has none.")
        self.model = model
        self.loss_function = loss
        self.executor = SerialExecutor() if executor is None else executor
        self.queries_per_chunk = queries_per_chunk
        self.ledger: Ledger | None = None
        self.on_failure = FailurePolicy()
        self.log = FailureLog()
        self._pickled: tuple[bytes, str, bytes] = b"", "", b""
        self._base: tuple[str, Any] = ("", None)

    @abc.abstractmethod
    def prepare(self, batch: Any) -> Any:
        """The loss of the network as it is, and all else that queries have in common: a :class:`Prepared`."""

    @abc.abstractmethod
    def preparation_steps(self, batch: Any) -> int:
        """Solver steps that :meth:`prepare` takes for this batch."""

    @abc.abstractmethod
    def evaluate(self, prepared: Any, perturbation: Perturbation, only: Collection[int] | None = None) -> Answers:
        """Answer a chunk of queries, here and now.

        Args:
            prepared: what :meth:`prepare` gave.
            perturbation: the queries.
            only: places of those for which the solver is asked; None for all. Nothing that is answered depends on it.
        """

    @abc.abstractmethod
    def differentiable_loss(self, batch: Any) -> tuple[torch.Tensor, int]:
        """The loss of the network as it is, recorded by autograd, and the solver steps it took."""

    @property
    def backward_steps(self) -> int:
        """Solver steps that back-propagation has taken so far, through losses of :meth:`differentiable_loss`."""
        return 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors that a checkpoint must keep besides the network, by name: what back-propagation has learnt of a solver."""
        return {}

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:  # noqa: B027 - most have learnt nothing
        """Restore what :meth:`state_dict` gave."""

    def chunks(self, prepared: Any, perturbations: Sequence[Perturbation]) -> list[Perturbation]:
        """The queries in the batches that they are evaluated in, whoever does it."""
        return chunked(perturbations, self.queries_per_chunk)

    def cost(self, prepared: Any, chunk: Perturbation) -> float:
        """How long a chunk takes, in any unit."""
        return len(chunk)

    def ask(self, prepared: Any, perturbations: Sequence[Perturbation]) -> Answers:
        """Answer queries, wherever the executor runs them.

        Raises:
            SolverError: the solver failed in one of them, and the failure policy does not leave it out; with several failures,
                the first in the order asked.
        """
        answers = self._asked(prepared, perturbations)
        self.log.incidents += answers.incidents
        return answers

    def _asked(self, prepared: Any, perturbations: Sequence[Perturbation]) -> Answers:
        chunks = self.chunks(prepared, perturbations)
        costs = [self.cost(prepared, chunk) for chunk in chunks]
        task = self._task(prepared)
        if self.ledger is None:
            return self._dealt(task, chunks, costs, prepared.loss)
        return self._by_portions(self.ledger, prepared, task, chunks, costs)

    def _by_portions(
        self, ledger: Ledger, prepared: Any, task: _Task, chunks: Sequence[Perturbation], costs: Sequence[float]
    ) -> Answers:
        """The answers to chunks, a portion after the other; what was answered before a kill is read."""
        portions = ledger.begin(prepared.loss, sum(map(len, chunks)))
        answers = [answers_of(portion, prepared.loss) for portion in portions]
        first = sum(portion.chunks for portion in portions)
        while first < len(chunks):
            end = first + ledger.size_of_next(costs[first:])
            started = time.perf_counter()
            answers.append(self._dealt(task, chunks[first:end], costs[first:end], prepared.loss))
            seconds = time.perf_counter() - started
            if end < len(chunks):  # otherwise the gradient is there in a moment
                ledger.keep(portion_of(end - first, answers[-1]), sum(costs[first:end]), seconds)
            first = end
        return joined(answers)

    def _dealt(self, task: _Task, chunks: Sequence[Perturbation], costs: Sequence[float], loss: float) -> Answers:
        """The answers to some chunks, dealt out to the executor's workers."""
        # an executor that does not tell its size is taken to have four workers
        workers = getattr(self.executor, "_max_workers", 4)
        bundles = bundled(chunks, costs, workers)
        answers = []
        for bundle, outcome in zip(bundles, run_in_order(self.executor, task, bundles, self.on_failure, self.log), strict=True):
            if isinstance(outcome, Answers):
                answers.append(outcome)
            elif self._drops_lost(outcome):
                answers.append(answered_one_by_one(self.executor, task, bundle, loss))
            else:
                raise outcome
        return joined(answers)

    def _drops_lost(self, error: Exception) -> bool:
        """Whether a failure is that of a worker, and the queries that are its reason are to be left out."""
        lost = isinstance(error, WorkerLostError) and self.on_failure.response(error).drop
        return lost and can_revive(self.executor)

    def _keep(self, token: str, base: Any) -> None:
        """Keep what the network as it is computes on a batch, in place of the last one's."""
        self._base = token, base

    def _kept(self, token: str, compute: Callable[[], Any]) -> Any:
        """What was kept of a batch, computed where it was not: in a worker."""
        if self._base[0] != token:
            self._base = "", None  # free the last one's memory first
            self._keep(token, compute())
        return self._base[1]

    def _task(self, prepared: Any) -> _Task:
        if isinstance(self.executor, SerialExecutor):
            return functools.partial(_evaluate_all, self, prepared)
        sent = self._sent()
        training = tuple(module.training for module in self.model.modules())
        state = _NetworkState(training, {name: tensor.detach().cpu() for name, tensor in _state(self.model).items()})
        # pickled once for all tasks, and unpickled once by every worker
        question = cloudpickle.dumps((state, prepared))
        return functools.partial(_evaluate_remotely, sent, (uuid.uuid4().hex, question))

    def _sent(self) -> _Named:
        """Solver, network and loss for the workers, which keep them; the network's state goes along with every question.

        They are sent anew when anything in network or loss has changed but the values of parameters and buffers.

        Raises:
            ConfigError: something in them cannot be pickled.
        """
        with pickling_for_workers("solver, network and loss"):
            structure = _structure(self.model, self.loss_function)
            if structure != self._pickled[0]:
                self._pickled = structure, uuid.uuid4().hex, cloudpickle.dumps(self)
        return self._pickled[1:]

    def __getstate__(self) -> dict[str, Any]:
        mine = {"executor": SerialExecutor(), "ledger": None, "_base": ("", None), "_pickled": (b"", "", b"")}
        return {**self.__dict__, **mine}


def portion_of(chunks: int, answers: Answers) -> Portion:
    """Answers to so many chunks, for a ledger."""
    incidents = [list(incident) for incident in answers.incidents]
    return Portion(chunks, answers.changes.tolist(), answers.solver_steps, list(answers.dropped), incidents)


def answers_of(portion: Portion, loss: float) -> Answers:
    """What a ledger kept."""
    changes = torch.tensor(portion.changes, dtype=torch.float64)
    incidents = tuple(Incident(*incident) for incident in portion.incidents)
    return Answers(changes, loss, portion.solver_steps, tuple(portion.dropped), incidents)


class _NetworkState(NamedTuple):
    """Whether each module is in training mode, and its parameters and buffers, whether a state dict has them or not."""

    training: tuple[bool, ...]
    tensors: NamedTensors


def _state(model: torch.nn.Module) -> NamedTensors:
    return dict(model.named_parameters()) | dict(model.named_buffers())


class _StructurePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves the values of a network's parameters and buffers out."""

    def __init__(self, file: io.BytesIO, model: torch.nn.Module) -> None:
        super().__init__(file)
        self._numbers = {id(tensor): number for number, tensor in enumerate(_state(model).values())}

    def persistent_id(self, obj: Any) -> Any:
        """What stands for an object that is left out."""
        if id(obj) not in self._numbers:
            return None
        return self._numbers[id(obj)], str(obj.dtype), tuple(obj.shape), obj.requires_grad


def _structure(model: torch.nn.Module, loss: Loss) -> bytes:
    """A digest of all that answers depend on, in a network and a loss, beside the values of parameters and buffers."""
    pickled = io.BytesIO()
    _StructurePickler(pickled, model).dump((model, loss))
    return hashlib.sha256(pickled.getvalue()).digest()


_worker = threading.local()


def _evaluate_remotely(
    oracle_as_sent: _Named, question: _Named, chunks: list[Perturbation], only: Collection[int] | None = None
) -> Answers:
    oracle: Oracle = kept_in_worker(*oracle_as_sent)
    return _evaluate_all(oracle, _understood(oracle, *question), chunks, only)


def _understood(oracle: Oracle, token: str, pickled: bytes) -> Any:
    """The prepared batch of a question, with the network's state of that moment set: once for all tasks of a question."""
    if _worker.__dict__.get("question", ("", None))[0] != token:
        state, prepared = cloudpickle.loads(pickled)
        for module, training in zip(oracle.model.modules(), state.training, strict=True):
            module.training = training
        for name, tensor in _state(oracle.model).items():
            tensor.data.copy_(state.tensors[name])
        _worker.question = token, prepared
    return _worker.question[1]


def _evaluate_all(oracle: Oracle, prepared: Any, chunks: list[Perturbation], only: Collection[int] | None = None) -> Answers:
    with torch.no_grad():
        return joined([oracle.evaluate(prepared, chunk, only) for chunk in chunks])


def require_finite(loss: float) -> None:
    """Raise :class:`DivergedError` unless the base loss is finite."""
    if not torch.isfinite(torch.tensor(loss)):
        raise DivergedError(
            f"the loss must be finite, got {loss}: the network diverged; start again with a smaller learning rate, "
            "or from an earlier checkpoint."
        )


def _tensor(x: Any) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"a batch must hold tensors or arrays of numbers, not {type(x).__name__}.") from error
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        raise ConfigError(f"a batch must hold dense tensors with values, not {tensor.layout} on {tensor.device}.")
    return tensor


def _described(batch: Any) -> str:
    return f"{len(batch)} entries" if isinstance(batch, Sequence) else type(batch).__name__


class LoopBatch(NamedTuple):
    """A batch of a solver loop, rolled out with the network as it is.

    Args:
        states: `(B, C, *N)`, where the rollouts start.
        params: `(B, K)` or None.
        references: `(B, T, C, *N)`, what the rollouts should give.
        advanced: `(B, C, *N)`, the solver's first step from `states`: the same for every query.
        rollout: `(B, T, C, *N)`.
        seen: what the corrector was called with, step by step.
        loss: of the rollout.
        token: names the batch and the network as it is.
    """

    states: torch.Tensor
    params: torch.Tensor | None
    references: torch.Tensor
    advanced: torch.Tensor
    rollout: torch.Tensor
    seen: list[tuple[torch.Tensor, torch.Tensor | None]]
    loss: float
    token: str


class LoopOracle(Oracle):
    """The loss of a corrected rollout. Batches are `(states, params, references)`, with `advanced` as a fourth if it is known.

    Args:
        loop: solver and corrector.
        loss: `(rollout (B, T, C, *N), references (B, T, C, *N)) -> scalar`.
        executor: where chunks of queries are answered; this thread if None.
        queries_per_chunk: perturbed networks evaluated as one batch, `P`: solver calls then advance `P * B` states.
    """

    def __init__(self, loop: SolverLoop, loss: Loss, executor: Executor | None = None, queries_per_chunk: int = 16) -> None:
        if not isinstance(loop, SolverLoop):
            raise ConfigError(f"a LoopOracle asks a dz.SolverLoop, not {type(loop).__name__}: dz.ModelOracle asks a network.")
        super().__init__(loop.corrector, loss, executor, queries_per_chunk)
        require_thread_safe(loop.solver, executor)
        self.loop = loop
        self.on_failure, self.log = loop.on_failure, loop.log
        self._corrector = QueriedNetwork(loop.corrector, in_loop=True)
        self._loss = NetworkWithLoss(None, loss)
        self._rollout_loss = QueriedNetwork(None, self._loss)

    @torch.no_grad()
    def prepare(self, batch: Any) -> LoopBatch:
        states, params, references, known = self._checked(batch)
        advanced = self.loop.advance(states, params) if known is None else known
        seen: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        bases: list[Base] = []

        def corrected(inputs: torch.Tensor, parameters: torch.Tensor | None) -> torch.Tensor:
            seen.append((inputs, parameters))
            bases.append(self._corrector.base(inputs, parameters))
            return bases[-1].result

        rollout = self.loop.rollout(states, params, advanced=advanced, corrector=corrected)
        base = self._rollout_loss.base(rollout, references)
        prepared = LoopBatch(states, params, references, advanced, rollout, seen, float(base.result), uuid.uuid4().hex)
        self._keep(prepared.token, (bases, base))
        return prepared

    def preparation_steps(self, batch: Any) -> int:
        return len(batch[0]) * (self.loop.unroll if len(batch) == 3 else self.loop.unroll - 1)

    def _checked(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
        if not isinstance(batch, Sequence) or len(batch) not in (3, 4):
            raise ConfigError(
                f"a batch must be (states, params, references) or with advanced as a fourth, not {_described(batch)}."
            )
        states, params, references, advanced = (None if x is None else _tensor(x) for x in (*batch, None)[:4])
        if states is None or references is None:
            raise ConfigError("a batch needs states and references: only params may be None.")
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
        if advanced is not None:
            check_states(spec, to_array(advanced), "the batch's advanced states", "check the data", len(states))
        return states, params, references, advanced

    @property
    def backward_steps(self) -> int:
        return self.loop.backward_steps

    def state_dict(self) -> dict[str, torch.Tensor]:
        layer = self.loop.layer
        return {} if layer is None else {name: torch.from_numpy(array) for name, array in layer.vjp.state_dict().items()}

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        if self.loop.layer is not None:
            self.loop.layer.vjp.load_state_dict({name: to_array(tensor) for name, tensor in state_dict.items()})

    def evaluate(self, prepared: LoopBatch, perturbation: Perturbation, only: Collection[int] | None = None) -> Answers:
        count, size = len(perturbation), len(prepared.states)
        unperturbed = [advanced for advanced, _ in prepared.seen[1:]]
        queries = Surviving(self.loop.solver, self.on_failure, perturbation, unperturbed, only)
        bases, base_loss = self._kept(prepared.token, lambda: self._bases(prepared))
        steps = iter(bases)

        def corrected(inputs: torch.Tensor, parameters: torch.Tensor | None) -> torch.Tensor:
            base: Base = next(steps)
            moved = None if base is bases[0] else torch.unflatten(inputs, 0, (count, size)) - base.inputs[0]
            return (base.result + self._corrector.changes(base, perturbation, [moved])).flatten(0, 1)

        rollout = self.loop.rollout(
            _repeated(prepared.states, count),
            None if prepared.params is None else _repeated(prepared.params, count),
            advanced=_repeated(prepared.advanced, count),
            corrector=corrected,
            step=queries.step,
        )
        moved = torch.unflatten(rollout, 0, (count, size)) - prepared.rollout
        changes = self._rollout_loss.changes(base_loss, None, [moved]).double()
        dropped = sorted(queries.dropped)
        changes[dropped] = 0
        return Answers(changes, prepared.loss, queries.solver_steps, tuple(dropped), tuple(queries.log.incidents))

    def _bases(self, prepared: LoopBatch) -> tuple[list[Base], Base]:
        bases = [self._corrector.base(*seen) for seen in prepared.seen]
        return bases, self._rollout_loss.base(prepared.rollout, prepared.references)

    def differentiable_loss(self, batch: Any) -> tuple[torch.Tensor, int]:
        states, params, references, advanced = self._checked(batch)
        rollout = self.loop.rollout(states, params, advanced=advanced)
        return self._loss(rollout, references.clone()), self.preparation_steps(batch)  # a loss may write into them


def _repeated(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """`(B, ...)` to `(count * B, ...)`, the whole batch again and again."""
    return tensor.repeat(count, *[1] * (tensor.dim() - 1))


class ModelBatch(NamedTuple):
    """A batch of a plain network.

    Args:
        inputs: of the network.
        targets: of the loss.
        loss: of the network as it is.
        footprint: by parameter, what a query takes.
        token: names the batch and the network as it is.
    """

    inputs: tuple[Any, ...]
    targets: Any
    loss: float
    footprint: Mapping[str, Footprint]
    token: str


class ModelOracle(Oracle):
    """The loss of a plain network. Batches are `(inputs, targets)`; several inputs are a tuple.

    Args:
        model: called as ``model(inputs)``, or ``model(*inputs)`` for a tuple.
        loss: `(outputs, targets) -> scalar`, such as ``torch.nn.functional.cross_entropy``.
        executor: where chunks of queries are answered; this thread if None.
        queries_per_chunk: perturbed networks evaluated as one batch, at most; None for as many as `working_set` holds.
        precision: ``"float32"`` for differences in the network's own dtype, or ``"bfloat16"``.
        working_set: bytes of differences that a chunk keeps at once: what stays in the cache is fastest.
        memory: bytes that activations and differences may take together, in every worker.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        executor: Executor | None = None,
        queries_per_chunk: int | None = None,
        precision: Precision = "float32",
        working_set: int | None = None,
        memory: int = 8 * 2**30,
    ) -> None:
        super().__init__(model, loss, executor, MOST_QUERIES if queries_per_chunk is None else queries_per_chunk)
        if precision not in get_args(Precision):
            raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}.")
        for name, size in {"memory": memory, **({} if working_set is None else {"working_set": working_set})}.items():
            if not is_integer(size) or size < 1:
                raise ConfigError(f"{name} must be a positive whole number of bytes, not {size!r}.")
        self.precision = precision
        self.working_set = working_set
        self.memory = memory
        self._whole = NetworkWithLoss(model, loss)
        dtype = torch.bfloat16 if precision == "bfloat16" else None
        self._network = QueriedNetwork(model, self._whole, "network.", dtype, rounded_once=True, memory=memory)

    def prepare(self, batch: Any) -> ModelBatch:
        inputs, targets = self._checked(batch)
        base = self._network.base(inputs, targets)
        footprint = self._network.footprint(base)
        prepared = ModelBatch(inputs, targets, float(base.result), footprint, uuid.uuid4().hex)
        self._keep(prepared.token, base)
        return prepared

    def preparation_steps(self, batch: Any) -> int:
        return 0

    def _checked(self, batch: Any) -> tuple[tuple[Any, ...], Any]:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise ConfigError(f"a batch must be (inputs, targets), not {_described(batch)}.")
        inputs, targets = (tuple(map(_tensor, x)) if isinstance(x, tuple) else _tensor(x) for x in batch)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        # images with their channels innermost: everything behind them follows, and runs faster
        return tuple(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs), targets

    def chunks(self, prepared: ModelBatch, perturbations: Sequence[Perturbation]) -> list[Perturbation]:
        chunks: list[Perturbation] = []
        for perturbation in perturbations:
            for part in parts_of(perturbation) or (perturbation,):
                chunks += chunked([part], self._queries_at_once(prepared, part))
        return chunks

    def _queries_at_once(self, prepared: ModelBatch, part: Perturbation) -> int:
        """As many as the working set holds."""
        if not isinstance(part, Coordinates) or part.name not in prepared.footprint:
            return min(16, self.queries_per_chunk)
        wanted = WORKING_SET[next(self.model.parameters()).device.type] if self.working_set is None else self.working_set
        return max(1, min(self.queries_per_chunk, wanted // max(1, prepared.footprint[part.name].size)))

    def cost(self, prepared: ModelBatch, chunk: Perturbation) -> float:
        footprint, parts = prepared.footprint, parts_of(chunk)
        if not parts or not all(part.name in footprint for part in parts):
            return len(chunk) * max((f.seconds for f in footprint.values()), default=1.0)
        return sum(len(part) * footprint[part.name].seconds for part in parts)

    def evaluate(self, prepared: ModelBatch, perturbation: Perturbation, only: Collection[int] | None = None) -> Answers:
        base = self._kept(prepared.token, lambda: self._network.base(prepared.inputs, prepared.targets))
        return Answers(self._network.changes(base, perturbation).double(), prepared.loss, 0)

    def differentiable_loss(self, batch: Any) -> tuple[torch.Tensor, int]:
        inputs, targets = self._checked(batch)
        return self._whole(*copy_tensors((inputs, targets))), 0  # the network and the loss may write into them
