"""A model that a server offers under one name, vectors in and vectors out, and an evaluation of it that is under way."""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import is_integer
from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.errors import ServerError

#: Evaluation of each thread.
_CURRENT = threading.local()


class Evaluation:
    """One evaluation of a model, which runs in a thread of its own and may be given up from another one."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def give_up(self, reason: str) -> None:
        """End the evaluation at its next :meth:`ServedModel.check_wanted`, with a sentence for the client."""
        self.reason = reason

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the evaluation of the present thread."""
        _CURRENT.evaluation = self
        try:
            yield
        finally:
            del _CURRENT.evaluation


class ServedModel(abc.ABC):
    """A model as UM-Bridge knows it. Subclasses report their sizes and evaluate; the client is told the errors they raise.

    Attributes:
        thread_safe: True if several threads may evaluate it at once, together with the other models of its server.
        stopped: True once its server ends: :meth:`check_wanted` gives up then.
    """

    thread_safe: bool = False
    stopped: bool = False

    @abc.abstractmethod
    def input_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        """Return the length of every input vector.

        Args:
            config: Config that the client sent.
        """

    @abc.abstractmethod
    def output_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        """Return the length of every output vector."""

    @abc.abstractmethod
    def evaluate(self, inputs: Sequence[Vector], config: Mapping[str, Any]) -> Sequence[Vector]:
        """Return the outputs for some inputs, of the sizes reported.

        Args:
            inputs: Vectors of float64 `(n,)`, finite.
            config: Config that the client sent.

        Raises:
            DeepZeroError: There are none; the client is told the message.
        """

    def check_wanted(self) -> None:
        """Give up if nobody waits for the answer anymore: to be called between the parts of a long evaluation.

        Raises:
            ServerError: The server ends, the client has left, or the request has had its time.
        """
        if self.stopped:
            raise ServerError("the server was stopped before the evaluation was done: start it again.")
        evaluation: Evaluation | None = getattr(_CURRENT, "evaluation", None)
        if evaluation is not None and evaluation.reason is not None:
            raise ServerError(evaluation.reason)


def config_integer(config: Mapping[str, Any], key: str, default: int, least: int, most: int = 2**31 - 1) -> int:
    """Read a model's config that may hold nothing but one whole number."""
    for name in config:
        require(name == key, f"the config of this model may hold {key!r}", name, "leave it out")
    value = config.get(key, default)
    expected = f"{key} in the config of this model must be a whole number from {least} to {most}"
    require(is_integer(value) and least <= value <= most, expected, value)
    return int(value)
