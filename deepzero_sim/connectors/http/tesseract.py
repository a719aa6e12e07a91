"""Solvers behind Tesseract: components that a service offers over HTTP, arrays as the bytes they are."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from http.client import OK
from typing import Any

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.http.client import words
from deepzero_sim.connectors.http.json_values import named_values, read, written
from deepzero_sim.connectors.http.solver import HTTPSolver
from deepzero_sim.errors import ConfigError, InvalidStateError, ServerError, UnreadableOutputError
from deepzero_sim.solver.contract import SolverSpec

#: How arrays are to come back.
_HEADERS = {"Accept": "application/json+base64"}

#: Every call belongs to one run: services write a folder of logs for each run.
_APPLY = "/apply?run_id=deepzero-sim"


class TesseractSolver(HTTPSolver):
    """A Tesseract as a solver: one `apply` advances one state by one step.

    The state goes out and comes back as an array `(C, *N)`, in the spec's dtype, encoded as base64; the Tesseract's schema may
    ask for another dtype that it can be cast to. The service is asked over HTTP; the package tesseract-core is not needed here.

    Args:
        url: of the service, such as `http://localhost:8000`.
        state_shape: `(C, *N)`; None if a spec says it.
        spec: what the solver says of itself, or a mapping of its fields; a mapping may leave out name ("tesseract"), dt (1) and
            dtype (float32).
        state: the input that takes the state.
        params: the input that takes the scenario parameters, an array `(K,)`, if the spec names some.
        output: the output that is the state one step later.
        inputs: all other inputs by name, the same in every call.
        timeout: seconds that one call may take in all.
        at_once: calls under way at once, each over a connection of its own.

    Raises:
        ConfigError: an argument is not usable.
        MissingExtraError: the extra "http" is not installed.
    """

    def __init__(
        self,
        url: str,
        state_shape: tuple[int, ...] | None = None,
        spec: SolverSpec | Mapping[str, Any] | None = None,
        state: str = "state",
        params: str = "params",
        output: str = "state",
        inputs: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
        at_once: int = 1,
    ) -> None:
        super().__init__(url, "tesseract", state_shape, spec, timeout, at_once)
        for what, name in {"state": state, "params": params, "output": output}.items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{what} must be the name of a field of the Tesseract's schema, not {name!r}.")
        self.names = state, params, output
        self.inputs = named_values("inputs", inputs)
        for name in (state, params):
            if name in self.inputs:
                raise ConfigError(f"inputs must leave {name!r} to the solver: take it out.")

    def _look(self) -> None:
        answer = self.client.ask("GET", "/health")
        if answer.location:
            raise ServerError(f"{self.client.said('/health')} with status {answer.status}: {words(answer)}.")
        if answer.status != OK:
            raise ServerError(f"{self.client.said('/health')} with status {answer.status}: it is no Tesseract, check the URL.")

    def _ask(self, state: Array, row: Array | None) -> Array:
        state_name, params_name, output_name = self.names
        inputs = {**self.inputs, state_name: _encoded(state)}
        if row is not None:
            inputs[params_name] = _encoded(row)
        answer = self.client.ask("POST", _APPLY, written({"inputs": inputs}), _HEADERS, self.answer_limit)
        said = self.client.said("/apply")
        if answer.status != OK:
            raise ServerError(f"{said} with status {answer.status}: {words(answer)}; see the Tesseract's own log.")
        try:
            array = _decoded(read(answer.body)[output_name])
        except KeyError as error:
            raise UnreadableOutputError(
                f"{said} without {error}: name the output that is the state, and its encoding."
            ) from error
        except (ValueError, TypeError, IndexError) as error:
            raise UnreadableOutputError(f"{said} with an array that cannot be read ({error}).") from error
        if array.shape != self.spec.state_shape:
            raise InvalidStateError(
                f"output {output_name!r} of the Tesseract at {self.client.url} must have shape {self.spec.state_shape}, not "
                f"{array.shape}: check state_shape."
            )
        return array


def _encoded(array: Array) -> dict[str, Any]:
    buffer = base64.b64encode(array.tobytes()).decode()
    return {
        "object_type": "array",
        "shape": array.shape,
        "dtype": array.dtype.name,
        "data": {"buffer": buffer, "encoding": "base64"},
    }


def _decoded(value: Any) -> Array:
    """An array of an answer.

    Raises:
        KeyError, ValueError, TypeError: it is none.
    """
    shape, dtype, data = tuple(value["shape"]), np.dtype(value["dtype"]), value["data"]
    if dtype.kind not in "fiu":
        raise ValueError(f"expected real numbers, not {dtype}")
    if data["encoding"] != "base64" or data.get("compression"):
        raise ValueError(f"expected base64 without compression, not {data['encoding']}")
    array: Array = np.frombuffer(base64.b64decode(data["buffer"], validate=True), dtype)
    if array.size != math.prod(shape):
        raise ValueError(f"expected {math.prod(shape)} numbers, not {array.size}")
    return array.reshape(shape)
