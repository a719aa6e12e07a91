"""The UM-Bridge protocol, version 1.0, from the server's side: bytes of a request in, status and bytes of an answer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np

from deepzero_sim.common.requirements import require
from deepzero_sim.connectors.http.json_values import BYTES_PER_NUMBER, Vector, dumps, loads, to_vector
from deepzero_sim.errors import ConfigError, DeepZeroError, InvalidStateError
from deepzero_sim.serving.model import ServedModel

#: Status of HTTP and body of an answer.
Answer = tuple[int, bytes]

#: Most bytes of a request besides its numbers.
ENVELOPE = 2**16

#: Parts of the protocol that no model here offers.
UNSUPPORTED = ("Gradient", "ApplyJacobian", "ApplyHessian")


class _RefusalError(Exception):
    """A request that is answered with an error of the protocol."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Protocol:
    """Answers requests for models, by the names that they are offered under."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        expected = "expected models to serve, by name, such as {'forward': dz.ServedSolver(solver)}"
        require(isinstance(models, Mapping) and bool(models), expected, models)
        for name, model in models.items():
            if not isinstance(name, str) or not isinstance(model, ServedModel):
                found = f"{type(model).__name__} under {name!r}"
                raise ConfigError(f"expected a dz.ServedModel under a name, not {found}: wrap a solver in dz.ServedSolver.")
        self.models = dict(models)
        self.handlers: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "/ModelInfo": self._model_info,
            "/InputSizes": lambda question: {"inputSizes": list(self._model(question).input_sizes(_config(question)))},
            "/OutputSizes": lambda question: {"outputSizes": list(self._model(question).output_sizes(_config(question)))},
            "/Evaluate": self._evaluate,
            **{f"/{name}": self._refuse_gradient for name in UNSUPPORTED},
        }

    @property
    def largest_request(self) -> int:
        """Most bytes of a request."""
        return ENVELOPE + BYTES_PER_NUMBER * max(sum(model.input_sizes({})) for model in self.models.values())

    @property
    def thread_safe(self) -> bool:
        """True if several threads may evaluate the models at once."""
        return all(model.thread_safe for model in self.models.values())

    def stop(self, stopped: bool) -> None:
        """End evaluations of many steps, or let them go on from now on."""
        for model in self.models.values():
            model.stopped = stopped

    def info(self) -> bytes:
        """Return the answer to `/Info`: version and models."""
        return dumps({"protocolVersion": 1.0, "models": list(self.models)})

    def answer(self, path: str, body: bytes) -> Answer:
        """Answer a request to the path of one of the handlers, whose body is JSON."""
        try:
            return HTTPStatus.OK, dumps(self.handlers[path](_question(body)))
        except _RefusalError as refusal:
            return error_answer(refusal.kind, str(refusal))
        except ConfigError as error:
            return error_answer("InvalidConfig", str(error))
        except Exception as error:  # one that is none of ours is a fault of the user's model
            kind = type(error).__name__
            message = str(error) if isinstance(error, DeepZeroError) else f"the model raised {kind}: {error}"
            return error_answer(kind, message, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _model(self, question: Mapping[str, Any]) -> ServedModel:
        name = question.get("name")
        if not isinstance(name, str) or name not in self.models:
            known = ", ".join(self.models)
            raise _RefusalError("ModelNotFound", f"there is no model {name!r} here, but {known}: name one of them.")
        return self.models[name]

    def _model_info(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self._model(question)
        return {"support": {"Evaluate": True, **dict.fromkeys(UNSUPPORTED, False)}}

    def _refuse_gradient(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self._model(question)
        raise _RefusalError("UnsupportedFeature", "models here offer Evaluate only: they have no gradients.")

    def _evaluate(self, question: Mapping[str, Any]) -> dict[str, Any]:
        model, config = self._model(question), _config(question)
        inputs = _inputs(question.get("input"), model.input_sizes(config))
        outputs = [np.asarray(output, dtype=np.float64) for output in model.evaluate(inputs, config)]
        shapes, expected = [output.shape for output in outputs], [(size,) for size in model.output_sizes(config)]
        if shapes != expected:
            raise InvalidStateError(f"the model must return vectors of shapes {expected}, as it says, not {shapes}.")
        return {"output": outputs}


def error_answer(kind: str, message: str, status: int = HTTPStatus.BAD_REQUEST) -> Answer:
    """Return an error as the protocol has it: status and body."""
    return status, dumps({"error": {"type": kind, "message": message}})


def _require_input(holds: bool, demand: str) -> None:
    if not holds:
        raise _RefusalError("InvalidInput", f"{demand}.")


def _question(body: bytes) -> Mapping[str, Any]:
    try:
        question: Mapping[str, Any] = loads(body)
    except ValueError as error:
        raise _RefusalError("InvalidInput", f"the request must be JSON ({error}).") from error
    is_object = isinstance(question, Mapping)
    _require_input(is_object, f"the request must be an object of JSON, not {type(question).__name__}")
    return question


def _config(question: Mapping[str, Any]) -> Mapping[str, Any]:
    config: Mapping[str, Any] = question.get("config") or {}
    _require_input(isinstance(config, Mapping), f"config must be an object, not {type(config).__name__}")
    return config


def _inputs(value: Any, sizes: Sequence[int]) -> list[Vector]:
    try:
        inputs = [to_vector(part) for part in value]
    except (TypeError, ValueError) as error:
        raise _RefusalError("InvalidInput", f"input must be a list of lists of numbers ({error}).") from error
    lengths, expected = [len(part) for part in inputs], list(sizes)
    _require_input(lengths == expected, f"input must be vectors of sizes {expected}, not {lengths}")
    are_finite = all(np.isfinite(part).all() for part in inputs)
    _require_input(are_finite, "input must be finite numbers, but some are NaN, null or infinite")
    return inputs
