"""The UM-Bridge protocol, version 1.0, from the server's side: bytes of a request in, status and bytes of an answer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np

from deepzero_sim.connectors.http.json_values import NUMBER, Vector, read, vector, written
from deepzero_sim.errors import ConfigError, DeepZeroError, InvalidStateError
from deepzero_sim.serving.model import ServedModel

#: Bytes of a request beside its numbers.
ENVELOPE = 2**16

#: What the protocol knows besides and no model here offers.
UNSUPPORTED = ("Gradient", "ApplyJacobian", "ApplyHessian")


class _RefusedError(Exception):
    """A request that is answered with an error of the protocol."""

    def __init__(self, kind: str, message: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


class Protocol:
    """Answers requests for some models.

    Args:
        models: by name.

    Raises:
        ConfigError: there are none, or they are no models.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        if not isinstance(models, Mapping) or not models:
            raise ConfigError(
                f"expected models to serve, by name, such as {{'forward': dz.ServedSolver(solver)}}, not {models!r}."
            )
        for name, model in models.items():
            if not isinstance(name, str) or not isinstance(model, ServedModel):
                raise ConfigError(
                    f"expected a dz.ServedModel under a name, not {type(model).__name__} under {name!r}: wrap a solver in "
                    "dz.ServedSolver."
                )
        self.models = dict(models)
        self.handlers: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "/ModelInfo": self._model_info,
            "/InputSizes": lambda question: {"inputSizes": list(self._model(question).input_sizes(_config(question)))},
            "/OutputSizes": lambda question: {"outputSizes": list(self._model(question).output_sizes(_config(question)))},
            "/Evaluate": self._evaluate,
            **{f"/{name}": self._unsupported for name in UNSUPPORTED},
        }

    @property
    def largest_request(self) -> int:
        """Bytes of a request, at most."""
        return ENVELOPE + NUMBER * max(sum(model.input_sizes({})) for model in self.models.values())

    @property
    def thread_safe(self) -> bool:
        """Whether all models may be evaluated by several threads at once."""
        return all(model.thread_safe for model in self.models.values())

    def stop(self, stopped: bool) -> None:
        """End evaluations of many steps, or let them go on from now on."""
        for model in self.models.values():
            model.stopped = stopped

    def info(self) -> bytes:
        """What the server is."""
        return written({"protocolVersion": 1.0, "models": list(self.models)})

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """A request's answer: its status, and its body.

        Args:
            path: one of the handlers.
            body: of the request.
        """
        try:
            return HTTPStatus.OK, written(self.handlers[path](_question(body)))
        except _RefusedError as refusal:
            return error_answer(refusal.kind, str(refusal), refusal.status)
        except ConfigError as error:
            return error_answer("InvalidConfig", str(error))
        except DeepZeroError as error:
            return error_answer(type(error).__name__, str(error), HTTPStatus.INTERNAL_SERVER_ERROR)
        except Exception as error:  # a model of the user's
            words = f"the model raised {type(error).__name__}: {error}"
            return error_answer(type(error).__name__, words, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _model(self, question: Mapping[str, Any]) -> ServedModel:
        name = question.get("name")
        if not isinstance(name, str) or name not in self.models:
            raise _RefusedError(
                "ModelNotFound", f"there is no model {name!r} here, but {', '.join(self.models)}: name one of them."
            )
        return self.models[name]

    def _model_info(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self._model(question)
        return {"support": {"Evaluate": True, **dict.fromkeys(UNSUPPORTED, False)}}

    def _unsupported(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self._model(question)
        raise _RefusedError("UnsupportedFeature", "models here offer Evaluate only: they have no gradients.")

    def _evaluate(self, question: Mapping[str, Any]) -> dict[str, Any]:
        model, config = self._model(question), _config(question)
        inputs = _inputs(question.get("input"), model.input_sizes(config))
        outputs = [np.asarray(output, dtype=np.float64) for output in model.evaluate(inputs, config)]
        sizes, wanted = [output.shape for output in outputs], [(size,) for size in model.output_sizes(config)]
        if sizes != wanted:
            raise InvalidStateError(f"the model must return vectors of shapes {wanted}, as it says, not {sizes}.")
        return {"output": outputs}


def error_answer(kind: str, message: str, status: int = HTTPStatus.BAD_REQUEST) -> tuple[int, bytes]:
    """An error as the protocol has it: status and body."""
    return status, written({"error": {"type": kind, "message": message}})


def _question(body: bytes) -> Mapping[str, Any]:
    try:
        question = read(body)
    except ValueError as error:
        raise _RefusedError("InvalidInput", f"the request must be JSON ({error}).") from error
    if not isinstance(question, Mapping):
        raise _RefusedError("InvalidInput", f"the request must be an object of JSON, not {type(question).__name__}.")
    return question


def _config(question: Mapping[str, Any]) -> Mapping[str, Any]:
    config = question.get("config") or {}
    if not isinstance(config, Mapping):
        raise _RefusedError("InvalidInput", f"config must be an object, not {type(config).__name__}.")
    return config


def _inputs(value: Any, sizes: Sequence[int]) -> list[Vector]:
    try:
        inputs = [vector(part) for part in value]
    except (TypeError, ValueError) as error:
        raise _RefusedError("InvalidInput", f"input must be a list of lists of numbers ({error}).") from error
    if [len(part) for part in inputs] != list(sizes):
        raise _RefusedError(
            "InvalidInput", f"input must be vectors of sizes {list(sizes)}, not {[len(part) for part in inputs]}."
        )
    if not all(np.isfinite(part).all() for part in inputs):
        raise _RefusedError("InvalidInput", "input must be finite numbers, but some are NaN, null or infinite.")
    return inputs
