"""Solvers behind UM-Bridge, version 1.0 of its protocol: models of many languages, served over HTTP as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import OK
from typing import Any

import numpy as np

from deepzero_sim.common.types import Array, is_integer, is_number
from deepzero_sim.connectors.http.client import SMALL, Answer, shortened, words
from deepzero_sim.connectors.http.json_values import NUMBER, Vector, named_values, read, vector, written
from deepzero_sim.connectors.http.solver import HTTPSolver
from deepzero_sim.connectors.http.umbridge_vectors import Setting, Vectors, input_vectors, output_vectors, words_for
from deepzero_sim.errors import ConfigError, InvalidStateError, ServerError, UnreadableOutputError
from deepzero_sim.solver.contract import SolverSpec
from deepzero_sim.solver.spec_fields import IN_QUOTES

#: Of the protocol.
VERSION = 1.0

#: No answer has more, whatever its server says of its sizes.
MOST_BYTES = 2**40


class UMBridgeSolver(HTTPSolver):
    """A model of an UM-Bridge server as a solver: one evaluation advances one state by one step.

    Where nothing else is said, the model's first input is the state, all `(C, *N)` in one vector, channel by channel in C
    order; where the spec names parameters there is a second one, the state's row of them; its only output is the state one
    step later. `inputs` and `outputs` say what the vectors of other models are. Numbers travel as float64, whole. What the
    server says of its sizes is compared with all this before the first call.

    Args:
        url: of the server, such as `http://localhost:4242`.
        model: its name there.
        state_shape: `(C, *N)`; None if a spec says it.
        spec: what the solver says of itself, or a mapping of its fields; a mapping may leave out name (the model's), dt (1) and
            dtype (float32).
        config: the model's own settings, sent with every call.
        timeout: seconds that one call may take in all.
        at_once: calls under way at once, each over a connection of its own. Servers may take them one by one.
        inputs: what each input of the model is: `state`, `parameters`, `{channels: [u]}`, `{parameter: nu}`, `{constant: [1.0,
            2.0]}`, or a list of these, which are one vector then. Every channel and parameter goes in once.
        outputs: what each output is: `state`, `{channels: [u]}`, `ignore`, or a list of these, where `{ignore: 3}` are as many
            numbers. Every channel comes out once.

    Raises:
        ConfigError: an argument is not usable.
        MissingExtraError: the extra "http" is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str = "forward",
        state_shape: tuple[int, ...] | None = None,
        spec: SolverSpec | Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
        at_once: int = 1,
        inputs: Sequence[Setting] | None = None,
        outputs: Sequence[Setting] | None = None,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise ConfigError(f"model must be the name of a model of the server, not {model!r}: {IN_QUOTES}.")
        super().__init__(url, model, state_shape, spec, timeout, at_once)
        self.model = model
        self.inputs, self.outputs = input_vectors(inputs, self.spec), output_vectors(outputs, self.spec)
        self._coming = self.size
        self.config = named_values("config", config)
        self._named = {"name": model, "config": self.config}

    @property
    def answer_limit(self) -> int:
        """Bytes of an answer, at most: it holds what is ignored, too."""
        return min(SMALL + NUMBER * self._coming, MOST_BYTES)

    def _look(self) -> None:
        info = self._answer("GET", "/Info")
        version, models = info.get("protocolVersion"), listed(info.get("models"))
        if not is_number(version) or version != VERSION:
            raise ServerError(
                f"the server at {self.client.url} must speak version {VERSION} of UM-Bridge's protocol, not "
                f"{shortened(repr(version))}: update it."
            )
        if self.model not in models:
            raise ServerError(
                f"the server at {self.client.url} must have a model {self.model!r}, but has {shortened(str(models))}: "
                "name one of them."
            )
        support = self._answer("POST", "/ModelInfo", {"name": self.model}).get("support")
        if not isinstance(support, dict) or support.get("Evaluate") is not True:
            raise ServerError(
                f"model {self.model!r} at {self.client.url} must support Evaluate, but supports {shortened(str(support))}."
            )
        self._require_sizes("inputs", self.inputs, "/InputSizes", "inputSizes")
        self._coming = sum(self._require_sizes("outputs", self.outputs, "/OutputSizes", "outputSizes"))

    def _require_sizes(self, what: str, vectors: Vectors, path: str, key: str) -> list[int]:
        found = _sizes(self._answer("POST", path, self._named).get(key))
        if vectors.fit(found):
            return list(found)
        shown = [size if size is not None else "any" for size in vectors.sizes]
        words = words_for(what, found, self.spec)
        hint = f", or say what each vector is, such as {shortened(words)}" if words else f", and {what}"
        raise InvalidStateError(
            f"model {self.model!r} at {self.client.url} must have {what} of sizes {shown}, as the spec says (state "
            f"{self.spec.state_shape}{self._named_parameters()}), not {shortened(str(found))}: "
            f"check the spec's state_shape and parameters{hint}."
        )

    def _named_parameters(self) -> str:
        return f", parameters {', '.join(self.spec.parameters)}" if self.spec.parameters else ""

    def _ask(self, state: Array, row: Array | None) -> Array:
        question = {**self._named, "input": self.inputs.filled(state, row)}
        output = listed(self._answer("POST", "/Evaluate", question, self.answer_limit).get("output"))
        count = len(self.outputs.pieces)
        if len(output) != count:
            expected = "one vector" if count == 1 else f"{count} vectors"
            raise UnreadableOutputError(f"{self.client.said('/Evaluate')} with an output that is not a list of {expected}.")
        advanced = np.empty(self.spec.state_shape)
        for number, (found, size) in enumerate(zip(output, self.outputs.sizes, strict=True)):
            if self.outputs.is_used(number):
                self.outputs.put(number, self._read(found, size, f" in output {number + 1}" if count > 1 else ""), advanced)
        return advanced

    def _read(self, found: Any, size: int | None, where: str) -> Vector:
        """A vector of the model's output, of a size; a bare number is a list of one, where one is expected."""
        try:
            values = vector(listed(found) if size == 1 else found)
        except ValueError as error:
            raise UnreadableOutputError(
                f"{self.client.said('/Evaluate')} with an output that cannot be read{where}: {error}."
            ) from error
        if values.size != size:
            raise InvalidStateError(
                f"solver {self.spec.name!r} at {self.client.url} must return {size} numbers{where}, a state of shape "
                f"{self.spec.state_shape}, not {values.size}: check state_shape."
            )
        return values

    def _answer(self, method: str, path: str, question: Mapping[str, Any] | None = None, limit: int = SMALL) -> dict[str, Any]:
        """A question's answer.

        Raises:
            SolverError: there is none, or it is an error.
        """
        answer = self.client.ask(method, path, b"" if question is None else written(question), limit=limit)
        said = self.client.said(path)
        value = self._value(answer, said)
        if answer.status != OK or "error" in value:
            raise ServerError(f"{said} with {_described(answer, value)}.")
        return value

    def _value(self, answer: Answer, said: str) -> dict[str, Any]:
        """What an answer says; nothing if it is an error that does not come as JSON."""
        try:
            value = read(answer.body)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        if answer.status != OK:
            return {}
        raise UnreadableOutputError(f"{said} with something that is no object of JSON ({words(answer)}): check the URL.")


def listed(value: Any) -> list[Any]:
    """A list, also of one whose server writes it as what is in it, as some languages' JSON does; empty for nothing."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _sizes(found: Any) -> Any:
    """A server's sizes as whole numbers, where they are some: a bare one is a list of one."""
    sizes = listed(found)
    whole = all(is_integer(size) or (isinstance(size, float) and size.is_integer()) for size in sizes)
    return [int(size) for size in sizes] if whole else found


def _described(answer: Answer, value: Mapping[str, Any]) -> str:
    """An error, in the server's own words."""
    error = value.get("error")
    if not isinstance(error, dict):
        return f"status {answer.status}: {words(answer)}"
    told = answer._replace(body=str(error.get("message")).encode())
    return f"an error ({shortened(str(error.get('type')))}): {words(told)}"
