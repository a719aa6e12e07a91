"""Oracles in workers: how network, loss and batch get there, and what is kept on either side.

The oracle is pickled and sent once, until anything in it changes but the values of parameters and buffers. These go along with
every question, together with the batch; a worker sets them once a question.
"""

from __future__ import annotations

import functools
import hashlib
import io
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import cloudpickle
import torch

from deepzero_sim.common.types import NamedTensors
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.execution.workers import explain_pickling_errors, worker_cache
from deepzero_sim.oracle.answers import Answers, concatenate
from deepzero_sim.oracle.queries import Perturbation
from deepzero_sim.oracle.residuals import ResidualRequest

#: Name of something, and the thing itself as bytes.
_Named: TypeAlias = tuple[str, bytes]

_T = TypeVar("_T")


class Evaluator(Protocol):
    """An oracle, as far as workers need to know it."""

    model: torch.nn.Module
    loss_function: Any
    executor: Executor

    def evaluate(
        self,
        prepared: Any,
        perturbation: Perturbation,
        only: Collection[int] | None = None,
        request: ResidualRequest | None = None,
    ) -> Answers:
        """Answer a chunk of queries, here and now."""


class PassCache:
    """Unperturbed passes of the latest batch, which are not sent about: every worker computes its own."""

    def __init__(self) -> None:
        self._token = ""
        self._passes: Any = None

    def put(self, token: str, passes: Any) -> None:
        """Replace what is there.

        Args:
            token: Name of the batch and the network's state.
            passes: Unperturbed passes.
        """
        self._token, self._passes = token, passes

    def get(self, token: str, compute: Callable[[], _T]) -> _T:
        """Return the passes of a batch, computed where they are not there: in a worker."""
        if self._token != token:
            self.put("", None)  # free the last one's memory first
            self.put(token, compute())
        passes: _T = self._passes
        return passes


class SentOracle:
    """The oracle as workers have it, pickled anew when it has changed."""

    def __init__(self) -> None:
        self._structure = b""
        self._named: _Named = "", b""

    def task(self, oracle: Evaluator, prepared: Any, request: ResidualRequest | None = None) -> Callable[..., Answers]:
        """Make the function that answers a list of chunks, wherever the oracle's executor runs it.

        Args:
            oracle: Oracle that is asked.
            prepared: Batch as the oracle prepared it.
            request: Request for changes of residuals; None for none.

        Raises:
            ConfigError: Something in the oracle cannot be pickled.
        """
        if isinstance(oracle.executor, SerialExecutor):
            return functools.partial(evaluate_chunks, oracle, prepared, request=request)
        named = self._send(oracle)
        training = tuple(module.training for module in oracle.model.modules())
        state = _NetworkState(training, {name: tensor.detach().cpu() for name, tensor in _tensors(oracle.model).items()})
        # pickled once for all tasks, and unpickled once by every worker
        question = cloudpickle.dumps((state, prepared))
        return functools.partial(_evaluate_in_worker, named, (uuid.uuid4().hex, question), request=request)

    def _send(self, oracle: Evaluator) -> _Named:
        with explain_pickling_errors("solver, network and loss"):
            structure = _structure(oracle.model, oracle.loss_function)
            if structure != self._structure:
                self._structure, self._named = structure, (uuid.uuid4().hex, cloudpickle.dumps(oracle))
        return self._named


def evaluate_chunks(
    oracle: Evaluator,
    prepared: Any,
    chunks: Sequence[Perturbation],
    only: Collection[int] | None = None,
    request: ResidualRequest | None = None,
) -> Answers:
    """Answer a list of chunks, of each only some places if they are told."""
    answers = []
    asked = {} if request is None else {"request": request}  # an oracle of a user's own need not know of residuals
    with torch.no_grad():
        for chunk in chunks:
            answers.append(oracle.evaluate(prepared, chunk, only, **asked))
    return concatenate(answers)


def _evaluate_in_worker(
    oracle: _Named,
    question: _Named,
    chunks: Sequence[Perturbation],
    only: Collection[int] | None = None,
    request: ResidualRequest | None = None,
) -> Answers:
    mine: Evaluator = worker_cache(*oracle)
    return evaluate_chunks(mine, _unpack_question(mine, *question), chunks, only, request)


class _NetworkState(NamedTuple):
    """State of a network when a question is asked.

    Args:
        training: Training mode of each module.
        tensors: Parameters and buffers, whether a state dict has them or not.
    """

    training: tuple[bool, ...]
    tensors: NamedTensors


def _tensors(model: torch.nn.Module) -> NamedTensors:
    return dict(model.named_parameters()) | dict(model.named_buffers())


_worker = threading.local()


def _unpack_question(oracle: Evaluator, token: str, pickled: bytes) -> Any:
    """Unpickle the batch of a question, and set the network's state of that moment: once for all tasks of a question."""
    if _worker.__dict__.get("question", ("", None))[0] != token:
        state, prepared = cloudpickle.loads(pickled)
        for module, training in zip(oracle.model.modules(), state.training, strict=True):
            module.training = training
        for name, tensor in _tensors(oracle.model).items():
            tensor.data.copy_(state.tensors[name])
        _worker.question = token, prepared
    return _worker.question[1]


class _StructurePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves the values of a network's parameters and buffers out."""

    def __init__(self, file: io.BytesIO, model: torch.nn.Module) -> None:
        super().__init__(file)
        self._numbers = {id(tensor): number for number, tensor in enumerate(_tensors(model).values())}

    def persistent_id(self, obj: Any) -> Any:
        """Stand in for an object that is left out."""
        if id(obj) not in self._numbers:
            return None
        return self._numbers[id(obj)], str(obj.dtype), tuple(obj.shape), obj.requires_grad


def _structure(model: torch.nn.Module, loss: Any) -> bytes:
    """Hash of everything that affects results, except parameter and buffer values."""
    pickled = io.BytesIO()
    _StructurePickler(pickled, model).dump((model, loss))
    return hashlib.sha256(pickled.getvalue()).digest()
