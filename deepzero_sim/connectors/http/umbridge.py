"""Solvers behind UM-Bridge, version 1.0 of its protocol: models of many languages, served over HTTP as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import OK
from typing import Any

import numpy as np

from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array, is_integer, is_number
from deepzero_sim.connectors.http.client import SHORT_ANSWER, Answer, error_text, one_line
from deepzero_sim.connectors.http.json_values import BYTES_PER_NUMBER, Vector, dumps, json_object, loads, to_vector
from deepzero_sim.connectors.http.solver import HTTPSolver
from deepzero_sim.connectors.http.umbridge_vectors import Setting, Vectors, input_vectors, output_vectors, suggest_setting
from deepzero_sim.errors import InvalidStateError, ServerError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.spec_values import IN_QUOTES

#: Version of the protocol.
VERSION = 1.0

#: Most bytes of any answer, whatever its server reports of its sizes.
LONGEST_ANSWER = 2**40


class UMBridgeSolver(HTTPSolver):
    """A model of an UM-Bridge server as a solver: one evaluation advances one state by one step.

    By default the model's first input is the state, all `(C, *N)` in one vector, channel by channel in C order. Where the spec
    names inputs of a step, they follow in a vector of their own, field by field, and where it names parameters, the state's row
    of them. The only output is the state one step later. `inputs` and `outputs` describe the vectors of other models. Numbers
    travel as float64, bit for bit. The sizes that the server reports are compared with all this before the first call.

    Args:
        url: Address of the server, such as `http://localhost:4242`.
        model: Name of the model there.
        state_shape: Shape of a state, `(C, *N)`; None if a spec gives it.
        spec: Spec of the solver, or a mapping of its fields; a mapping may leave out name (the model's), dt (1) and dtype
            (float32).
        config: Settings of the model, sent with every call.
        timeout: Seconds that one call may take in all.
        at_once: Number of calls under way at once, each over a connection of its own. Servers may take them one by one.
        inputs: Content of each input of the model: `state`, `parameters`, `{channels: [u]}`, `{parameter: nu}`, `{constant:
            [1.0, 2.0]}`, or a list of these, which are one vector then. Every channel and parameter goes in once, and every
            input of a step, which is named as a channel is.
        outputs: Content of each output: `state`, `{channels: [u]}`, `ignore`, or a list of these, where `{ignore: 3}` are as
            many numbers. Every channel comes out once.

    Raises:
        ConfigError: An argument is not usable.
        MissingExtraError: The extra "http" is not installed.
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
        is_name = isinstance(model, str) and bool(model)
        require(is_name, "model must be the name of a model of the server", model, IN_QUOTES)
        super().__init__(url, model, state_shape, spec, timeout, at_once)
        self.model = model
        self.inputs, self.outputs = input_vectors(inputs, self.spec), output_vectors(outputs, self.spec)
        self._output_size = self.size
        self.config = json_object("config", config)
        self._model_and_config = {"name": model, "config": self.config}

    @property
    def answer_limit(self) -> int:
        """Most bytes of an answer, ignored outputs included."""
        return min(SHORT_ANSWER + BYTES_PER_NUMBER * self._output_size, LONGEST_ANSWER)

    def _check_server(self) -> None:
        info = self._call("GET", "/Info")
        version, models = info.get("protocolVersion"), as_list(info.get("models"))
        demand = f"speak version {VERSION} of UM-Bridge's protocol, not {one_line(repr(version))}: update it"
        self._require(is_number(version) and version == VERSION, "the server", demand, ServerError)
        demand = f"have a model {self.model!r}, but has {one_line(str(models))}: name one of them"
        self._require(self.model in models, "the server", demand, ServerError)
        support = self._call("POST", "/ModelInfo", {"name": self.model}).get("support")
        is_supported = isinstance(support, dict) and support.get("Evaluate") is True
        demand = f"support Evaluate, but supports {one_line(str(support))}"
        self._require(is_supported, f"model {self.model!r}", demand, ServerError)
        self._require_sizes("inputs", self.inputs, "/InputSizes", "inputSizes")
        self._output_size = sum(self._require_sizes("outputs", self.outputs, "/OutputSizes", "outputSizes"))

    def _require_sizes(self, what: str, vectors: Vectors, path: str, key: str) -> list[int]:
        sizes = _integer_sizes(self._call("POST", path, self._model_and_config).get(key))
        setting = suggest_setting(what, sizes, self.spec)
        hint = f", or say what each vector is, such as {one_line(setting)}" if setting else f", and {what}"
        expected = [size if size is not None else "any" for size in vectors.sizes]
        parameters = f", parameters {', '.join(self.spec.parameters)}" if self.spec.parameters else ""
        demand = f"have {what} of sizes {expected}, as the spec says (state {self.spec.state_shape}{parameters}), not "
        demand += f"{one_line(str(sizes))}: check the spec's state_shape and parameters{hint}"
        self._require(vectors.have_sizes(sizes), f"model {self.model!r}", demand, InvalidStateError)
        return list(sizes)

    def _ask(self, state: Array, row: Array | None) -> Array:
        question = {**self._model_and_config, "input": self.inputs.pack(state, row)}
        output = as_list(self._call("POST", "/Evaluate", question, self.answer_limit).get("output"))
        count = len(self.outputs.pieces)
        if len(output) != count:
            expected = "one vector" if count == 1 else f"{count} vectors"
            raise self.client.answer_error("/Evaluate", f"with an output that is not a list of {expected}")
        advanced = np.empty(self.spec.state_shape)
        for number, (values, size) in enumerate(zip(output, self.outputs.sizes, strict=True)):
            if self.outputs.hold_state(number):
                vector = self._parse_vector(values, size, f" in output {number + 1}" if count > 1 else "")
                self.outputs.unpack(number, vector, advanced)
        return advanced

    def _parse_vector(self, values: Any, size: int | None, where: str) -> Vector:
        """Read a vector of the model's output; a bare number is a list of one, where one is expected."""
        try:
            vector = to_vector(as_list(values) if size == 1 else values)
        except ValueError as error:
            problem = f"with an output that cannot be read{where}: {error}"
            raise self.client.answer_error("/Evaluate", problem) from error
        self._require_size(vector, size, where)
        return vector

    def _call(
        self, method: str, path: str, question: Mapping[str, Any] | None = None, limit: int = SHORT_ANSWER
    ) -> dict[str, Any]:
        """Ask the server, and return its answer, or raise a SolverError where there is none, or it is an error."""
        answer = self.client.ask(method, path, b"" if question is None else dumps(question), limit=limit)
        value = self._parse_answer(answer, path)
        if answer.status != OK or "error" in value:
            raise self.client.answer_error(path, f"with {_describe_error(answer, value)}", ServerError)
        return value

    def _parse_answer(self, answer: Answer, path: str) -> dict[str, Any]:
        """Read an answer's object; empty for an error that does not come as JSON."""
        try:
            value = loads(answer.body)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        if answer.status != OK:
            return {}
        problem = f"with something that is no object of JSON ({error_text(answer)}): check the URL"
        raise self.client.answer_error(path, problem)


def as_list(value: Any) -> list[Any]:
    """Wrap a bare value, as some languages' JSON writes a list of one; None becomes an empty list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _integer_sizes(sizes: Any) -> Any:
    """Convert a server's sizes to whole numbers, where they are some: a bare one is a list of one."""
    listed = as_list(sizes)
    are_whole = all(is_integer(size) or (isinstance(size, float) and size.is_integer()) for size in listed)
    return [int(size) for size in listed] if are_whole else sizes


def _describe_error(answer: Answer, value: Mapping[str, Any]) -> str:
    """Describe an error in the server's own words."""
    error = value.get("error")
    if not isinstance(error, dict):
        return f"status {answer.status}: {error_text(answer)}"
    message = answer._replace(body=str(error.get("message")).encode())
    return f"an error ({one_line(str(error.get('type')))}): {error_text(message)}"
