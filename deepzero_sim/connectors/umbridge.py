"""Solvers behind UM-Bridge, version 1.0 of its protocol: models of many languages, served over HTTP as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import OK
from typing import Any

import numpy as np

from deepzero_sim.connectors.http_client import SMALL, Answer, shortened, words
from deepzero_sim.connectors.http_solver import HTTPSolver
from deepzero_sim.connectors.json_values import named_values, read, vector, written
from deepzero_sim.errors import InvalidStateError, ServerError, UnreadableOutputError
from deepzero_sim.solver import SolverSpec
from deepzero_sim.types import Array

#: Of the protocol.
VERSION = 1.0


class UMBridgeSolver(HTTPSolver):
    """A model of an UM-Bridge server as a solver: one evaluation advances one state by one step.

    The model's first input is the state, all `(C, *N)` in one vector, channel by channel in C order; where the spec names
    parameters there is a second one, the state's row of them. Its only output is the state one step later. Numbers travel as
    float64, whole. What the server says of its sizes is compared with the spec before the first call.

    Args:
        url: of the server, such as `http://localhost:4242`.
        model: its name there.
        state_shape: `(C, *N)`; None if a spec says it.
        spec: what the solver says of itself, or a mapping of its fields; a mapping may leave out name (the model's), dt (1) and
            dtype (float32).
        config: the model's own settings, sent with every call.
        timeout: seconds that one call may take in all.
        at_once: calls under way at once, each over a connection of its own. Servers may take them one by one.

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
    ) -> None:
        super().__init__(url, model, state_shape, spec, timeout, at_once)
        self.model = model
        self.config = named_values("config", config)
        self._named = {"name": model, "config": self.config}

    def _look(self) -> None:
        info = self._answer("GET", "/Info")
        if info.get("protocolVersion") != VERSION:
            raise ServerError(
                f"the server at {self.client.url} must speak version {VERSION} of UM-Bridge's protocol, not "
                f"{shortened(repr(info.get('protocolVersion')))}: update it."
            )
        models = info.get("models")
        if not isinstance(models, list) or self.model not in models:
            raise ServerError(
                f"the server at {self.client.url} must have a model {self.model!r}, but has {shortened(str(models))}: "
                "name one of them."
            )
        support = self._answer("POST", "/ModelInfo", {"name": self.model}).get("support")
        if not isinstance(support, dict) or support.get("Evaluate") is not True:
            raise ServerError(
                f"model {self.model!r} at {self.client.url} must support Evaluate, but supports {shortened(str(support))}."
            )
        inputs = [self.size, len(self.spec.parameters)] if self.spec.parameters else [self.size]
        self._require_sizes("inputs", inputs, self._answer("POST", "/InputSizes", self._named).get("inputSizes"))
        self._require_sizes("outputs", [self.size], self._answer("POST", "/OutputSizes", self._named).get("outputSizes"))

    def _require_sizes(self, what: str, wanted: list[int], found: Any) -> None:
        if found != wanted:
            raise InvalidStateError(
                f"model {self.model!r} at {self.client.url} must have {what} of sizes {wanted}, as the spec says (state "
                f"{self.spec.state_shape}{self._named_parameters()}), not {shortened(str(found))}: "
                "check the spec's state_shape and parameters."
            )

    def _named_parameters(self) -> str:
        return f", parameters {', '.join(self.spec.parameters)}" if self.spec.parameters else ""

    def _ask(self, state: Array, row: Array | None) -> Array:
        rows = [state] if row is None else [state, row]
        question = {**self._named, "input": [np.ascontiguousarray(part, np.float64).reshape(-1) for part in rows]}
        output = self._answer("POST", "/Evaluate", question, self.answer_limit).get("output")
        if not isinstance(output, list) or len(output) != 1:
            raise UnreadableOutputError(f"{self.client.said('/Evaluate')} with an output that is not a list of one vector.")
        try:
            return vector(output[0])
        except ValueError as error:
            raise UnreadableOutputError(
                f"{self.client.said('/Evaluate')} with an output that cannot be read: {error}."
            ) from error

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


def _described(answer: Answer, value: Mapping[str, Any]) -> str:
    """An error, in the server's own words."""
    error = value.get("error")
    if not isinstance(error, dict):
        return f"status {answer.status}: {words(answer)}"
    told = Answer(answer.status, str(error.get("message")).encode())
    return f"an error ({shortened(str(error.get('type')))}): {words(told)}"
