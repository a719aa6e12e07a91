"""Requests of UM-Bridge, answered or refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import Burgers, LogisticSolver, initial_states

from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.errors import ConfigError
from deepzero_sim.serving import ServedModel, ServedSolver
from deepzero_sim.serving.protocol import Protocol


class Faulty(ServedModel):
    """Two numbers in, and what its config says out."""

    def input_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return [2]

    def output_sizes(self, config: Mapping[str, Any]) -> Sequence[int]:
        return [1]

    def evaluate(self, inputs: Sequence[Vector], config: Mapping[str, Any]) -> Sequence[Vector]:
        match config.get("fault"):
            case "raise":
                raise ValueError("no such state")
            case "short":
                return []
            case "nan":
                return [np.array([np.nan])]
        return [inputs[0][:1]]


PROTOCOL = Protocol({"burgers": ServedSolver(Burgers()), "logistic": ServedSolver(LogisticSolver()), "faulty": Faulty()})


def ask(path: str, **question: Any) -> tuple[int, Any]:
    status, body = PROTOCOL.answer(path, json.dumps(question).encode())
    return status, json.loads(body)


def test_it_says_what_it_is() -> None:
    assert json.loads(PROTOCOL.info()) == {"protocolVersion": 1.0, "models": ["burgers", "logistic", "faulty"]}


def test_sizes_are_those_of_states_and_parameters() -> None:
    assert ask("/InputSizes", name="burgers") == (200, {"inputSizes": [16]})
    assert ask("/InputSizes", name="logistic", config={}) == (200, {"inputSizes": [16, 1]})
    assert ask("/OutputSizes", name="logistic", config=None) == (200, {"outputSizes": [16]})
    assert ask("/ModelInfo", name="burgers")[1]["support"]["Evaluate"] is True


def test_a_solver_takes_as_many_steps_as_its_config_says() -> None:
    states = initial_states(1)
    status, answer = ask("/Evaluate", name="burgers", input=[states.reshape(-1).tolist()], config={"steps": 3})
    expected = states
    for _ in range(3):
        expected = Burgers().step(expected)
    assert status == 200 and np.array_equal(answer["output"], expected.reshape(1, -1))


def test_parameters_reach_the_solver() -> None:
    states, rates = np.full((1, 1, 16), 0.3), np.array([[2.0]])
    _, answer = ask("/Evaluate", name="logistic", input=[states.reshape(-1).tolist(), rates[0].tolist()])
    assert np.array_equal(answer["output"][0], LogisticSolver().step(states, rates).reshape(-1))


@pytest.mark.parametrize(
    ("path", "question", "status", "kind", "message"),
    [
        ("/Evaluate", {"name": "absent"}, 400, "ModelNotFound", "no model 'absent' here, but burgers, logistic, faulty"),
        ("/InputSizes", {}, 400, "ModelNotFound", "no model None here"),
        ("/ModelInfo", {"name": [1]}, 400, "ModelNotFound", "name one of them"),
        ("/Gradient", {"name": "burgers"}, 400, "UnsupportedFeature", "offer Evaluate only"),
        ("/ApplyHessian", {"name": "burgers"}, 400, "UnsupportedFeature", "offer Evaluate only"),
        ("/Evaluate", {"name": "faulty"}, 400, "InvalidInput", "a list of lists of numbers"),
        ("/Evaluate", {"name": "faulty", "input": [1, 2]}, 400, "InvalidInput", "a list of lists of numbers"),
        ("/Evaluate", {"name": "faulty", "input": [["1", "2"]]}, 400, "InvalidInput", "a list of lists of numbers"),
        ("/Evaluate", {"name": "faulty", "input": [[1]]}, 400, "InvalidInput", "sizes [2], not [1]"),
        ("/Evaluate", {"name": "faulty", "input": [[1, 2], [3]]}, 400, "InvalidInput", "sizes [2], not [2, 1]"),
        ("/Evaluate", {"name": "faulty", "input": [[1, float("nan")]]}, 400, "InvalidInput", "must be finite"),
        ("/Evaluate", {"name": "faulty", "input": [[1, None]]}, 400, "InvalidInput", "must be finite"),
        ("/Evaluate", {"name": "faulty", "input": [[1, 2]], "config": [1]}, 400, "InvalidInput", "config must be an object"),
        ("/Evaluate", {"name": "burgers", "input": [[0] * 16], "config": {"step": 2}}, 400, "InvalidConfig", "not 'step'"),
        ("/Evaluate", {"name": "burgers", "input": [[0] * 16], "config": {"steps": 0}}, 400, "InvalidConfig", "not 0"),
        ("/Evaluate", {"name": "burgers", "input": [[0] * 16], "config": {"steps": True}}, 400, "InvalidConfig", "not True"),
        ("/Evaluate", {"name": "burgers", "input": [[0] * 16], "config": {"steps": 1.5}}, 400, "InvalidConfig", "not 1.5"),
        ("/Evaluate", {"name": "faulty", "input": [[1, 2]], "config": {"fault": "raise"}}, 500, "ValueError", "no such state"),
        ("/Evaluate", {"name": "faulty", "input": [[1, 2]], "config": {"fault": "short"}}, 500, "InvalidStateError", "not []"),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_the_protocol(
    path: str, question: dict[str, Any], status: int, kind: str, message: str
) -> None:
    found, answer = ask(path, **question)
    assert found == status and answer["error"]["type"] == kind and message in answer["error"]["message"]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_a_solver_that_diverges_is_an_error_and_no_answer() -> None:
    status, answer = ask("/Evaluate", name="burgers", input=[[1e300, -1e300] * 8])
    assert status == 500 and answer["error"]["type"] == "NonFiniteError"
    assert "what solver 'burgers' returned must be finite" in answer["error"]["message"]


def test_what_a_model_of_a_users_own_leaves_is_null() -> None:
    assert ask("/Evaluate", name="faulty", input=[[1, 2]], config={"fault": "nan"}) == (200, {"output": [[None]]})


@given(st.binary(max_size=50), st.sampled_from(["/Evaluate", "/InputSizes", "/ModelInfo", "/Gradient"]))
def test_garbage_is_refused(body: bytes, path: str) -> None:
    status, answer = PROTOCOL.answer(path, body)
    assert status == 400 and json.loads(answer)["error"]["type"] in ("InvalidInput", "ModelNotFound")


@pytest.mark.parametrize("models", [{}, None, [ServedSolver(Burgers())], {"a": Burgers()}, {1: ServedSolver(Burgers())}])
def test_what_is_no_models_is_said(models: Any) -> None:
    with pytest.raises(ConfigError, match=r"to serve, by name|expected a dz\.ServedModel under a name"):
        Protocol(models)


def test_solvers_decide_whether_threads_may_meet() -> None:
    assert Protocol({"a": ServedSolver(Burgers())}).thread_safe
    assert not Protocol({"a": ServedSolver(Burgers()), "b": ServedSolver(Burgers(thread_safe=False))}).thread_safe
    assert not PROTOCOL.thread_safe
