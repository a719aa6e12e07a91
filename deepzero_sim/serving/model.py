"""What a server offers under one name: vectors in, vectors out."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from deepzero_sim.common.types import is_integer
from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.errors import ConfigError, ServerError
from deepzero_sim.serving.evaluation import check


class ServedModel(abc.ABC):
    """A model as UM-Bridge knows it. Subclasses say their sizes and evaluate; what they raise is what the client is told.

    Attributes:
        thread_safe: whether it may be evaluated by several threads at once, and beside the other models of its server.
        stopped: set when its server ends: :meth:`check_wanted` gives up then.
    """

    thread_safe: bool = False
    stopped: bool = False

    @abc.abstractmethod
    def input_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        """The length of every input vector.

        Args:
            config: what the client sent as such.
        """

    @abc.abstractmethod
    def output_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        """The length of every output vector."""

    @abc.abstractmethod
    def evaluate(self, inputs: Sequence[Vector], config: Mapping[str, Any]) -> Sequence[Vector]:
        """The outputs of some inputs, of the sizes that were said.

        Args:
            inputs: float64 `(n,)`, finite.
            config: what the client sent as such.

        Raises:
            DeepZeroError: there are none, in words that the client is told.
        """

    def check_wanted(self) -> None:
        """Give up if nobody waits for the answer anymore: to be called between the parts of a long evaluation.

        Raises:
            ServerError: the server ends, the client has left, or the request has had its time.
        """
        if self.stopped:
            raise ServerError("the server was stopped before the evaluation was done: start it again.")
        check()


def whole_of(config: Mapping[str, Any], key: str, usual: int, least: int, most: int = 2**31 - 1) -> int:
    """The only thing that a model's config may hold: one whole number.

    Raises:
        ConfigError: it holds something else.
    """
    unknown = [name for name in config if name != key]
    if unknown:
        raise ConfigError(f"the config of this model may hold {key!r}, not {unknown[0]!r}: leave it out.")
    value = config.get(key, usual)
    if isinstance(value, bool) or not is_integer(value) or not least <= value <= most:
        raise ConfigError(f"{key} in the config of this model must be a whole number from {least} to {most}, not {value!r}.")
    return int(value)
