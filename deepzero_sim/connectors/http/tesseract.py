"""Solvers behind Tesseract: components that a service offers over HTTP, with arrays as base64."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from http.client import OK
from typing import Any

import numpy as np

from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.http.client import error_text
from deepzero_sim.connectors.http.json_values import dumps, json_object, loads
from deepzero_sim.connectors.http.solver import HTTPSolver
from deepzero_sim.errors import ConfigError, InvalidStateError, ServerError
from deepzero_sim.solver.spec import SolverSpec

#: Encoding that arrays are to come back in.
_HEADERS = {"Accept": "application/json+base64"}

#: Path of a call. All calls belong to one run: services write a folder of logs for each run.
_APPLY = "/apply?run_id=deepzero-sim"


class TesseractSolver(HTTPSolver):
    """A Tesseract as a solver: one `apply` advances one state by one step.

    The state goes out and comes back as an array `(C, *N)`, in the spec's dtype, encoded as base64; the Tesseract's schema may
    ask for another dtype that it can be cast to. The service is asked over HTTP; the package tesseract-core is not needed here.

    Args:
        url: Address of the service, such as `http://localhost:8000`.
        state_shape: Shape of a state, `(C, *N)`; None if a spec gives it.
        spec: Spec of the solver, or a mapping of its fields; a mapping may leave out name ("tesseract"), dt (1) and dtype
            (float32).
        state: Name of the input that takes the state.
        params: Name of the input that takes the scenario parameters, an array `(K,)`, if the spec names some.
        output: Name of the output that is the state one step later.
        inputs: All other inputs by name, the same in every call; the fields that the spec names as inputs of a step go out as
            arrays `(*N)` by their names.
        timeout: Seconds that one call may take in all.
        at_once: Number of calls under way at once, each over a connection of its own.

    Raises:
        ConfigError: An argument is not usable.
        MissingExtraError: The extra "http" is not installed.
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
            is_name = isinstance(name, str) and bool(name)
            require(is_name, f"{what} must be the name of a field of the Tesseract's schema", name)
        self.names = state, params, output
        self.inputs = json_object("inputs", inputs)
        for name in (state, params, *self.spec.input_names):
            if name in self.inputs:
                raise ConfigError(f"inputs must leave {name!r} to the solver: take it out.")

    def _check_server(self) -> None:
        answer = self.client.ask("GET", "/health")
        if answer.status != OK or answer.location:
            cause = error_text(answer) if answer.location else "it is no Tesseract, check the URL"
            raise self.client.answer_error("/health", f"with status {answer.status}: {cause}", ServerError)

    def _ask(self, state: Array, row: Array | None) -> Array:
        state_name, params_name, output_name = self.names
        own = self.spec.state_shape[0]
        fields = {name: _encode(field) for name, field in zip(self.spec.input_names, state[own:], strict=True)}
        inputs = {**self.inputs, **fields, state_name: _encode(state[:own])}
        if row is not None:
            inputs[params_name] = _encode(row)
        answer = self.client.ask("POST", _APPLY, dumps({"inputs": inputs}), _HEADERS, self.answer_limit)
        if answer.status != OK:
            problem = f"with status {answer.status}: {error_text(answer)}; see the Tesseract's own log"
            raise self.client.answer_error("/apply", problem, ServerError)
        try:
            array = _decode(loads(answer.body)[output_name])
        except KeyError as error:
            problem = f"without {error}: name the output that is the state, and its encoding"
            raise self.client.answer_error("/apply", problem) from error
        except (ValueError, TypeError, IndexError) as error:
            raise self.client.answer_error("/apply", f"with an array that cannot be read ({error})") from error
        demand = f"have shape {self.spec.state_shape}, not {array.shape}: check state_shape"
        is_state = array.shape == self.spec.state_shape
        self._require(is_state, f"output {output_name!r} of the Tesseract", demand, InvalidStateError)
        return array


def _encode(array: Array) -> dict[str, Any]:
    data = {"buffer": base64.b64encode(array.tobytes()).decode(), "encoding": "base64"}
    return {"object_type": "array", "shape": array.shape, "dtype": array.dtype.name, "data": data}


def _decode(value: Any) -> Array:
    """Read an array of an answer.

    Raises:
        KeyError, ValueError, TypeError: The value is none.
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
