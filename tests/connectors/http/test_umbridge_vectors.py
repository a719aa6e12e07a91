"""UM-Bridge models of any vectors: settings say what each is, and nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import yaml
from http_servers import OFFICIAL, RawServer, Reply, answer_with, http, official_server, raw_server
from hypothesis import given
from hypothesis import strategies as st

from deepzero_sim import SolverSpec, UMBridgeSolver
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.http.umbridge_vectors import input_vectors, output_vectors, suggest_setting
from deepzero_sim.errors import (
    ConfigError,
    InvalidStateError,
    NonFiniteError,
    ServerError,
    SolverError,
    UnreadableOutputError,
)
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.stepping import checked_step

WAVE = {"state_shape": [2, 3], "dtype": "float64", "channels": ["u", "v"], "parameters": ["c"]}
STATES = np.random.default_rng(0).standard_normal((4, 2, 3))
SPEEDS = np.array([[0.1], [0.2], [0.3], [0.4]])
A, B = 0.25, 3.0

ONE_BY_ONE = {
    "inputs": "[{channels: [u]}, {channels: [v]}, {parameter: c}, {constant: [0.25, 3.0]}]",
    "outputs": "[ignore, {channels: [v]}, {channels: [u]}]",
}
JOINED = {
    "inputs": "[[state, parameters, {constant: 0.25}, {constant: 3}]]",
    "outputs": "[[{ignore: 1}, state]]",
}


@pytest.fixture(scope="module")
def official() -> Iterator[str]:
    with official_server(OFFICIAL.with_name("umbridge_wave_server.py")) as url:
        yield url


def wave_step(states: Array, speeds: Array) -> Array:
    u, v, c = states[:, :1], states[:, 1:], speeds[:, :, None]
    return np.concatenate([u + c * v + A, v - c * B * u], axis=1)


@pytest.mark.parametrize(("model", "words"), [("wave", ONE_BY_ONE), ("joined", JOINED)])
@pytest.mark.parametrize("at_once", [1, 2])
def test_settings_say_what_each_vector_is(official: str, model: str, words: Mapping[str, str], at_once: int) -> None:
    vectors = {key: yaml.safe_load(value) for key, value in words.items()}
    args = {"url": official, "model": model, "spec": WAVE, "at_once": at_once, **vectors}
    solver = build_solver(Component("deepzero_sim.UMBridgeSolver", args))
    np.testing.assert_allclose(checked_step(solver, STATES, SPEEDS), wave_step(STATES, SPEEDS), rtol=1e-15)


def test_what_is_ignored_may_be_nan(official: str) -> None:
    vectors = {key: yaml.safe_load(value) for key, value in ONE_BY_ONE.items()}
    solver = UMBridgeSolver(official, "wave", spec=WAVE, config={"lost": True}, **vectors)
    np.testing.assert_allclose(checked_step(solver, STATES, SPEEDS), wave_step(STATES, SPEEDS), rtol=1e-15)


def test_an_error_shows_words_that_work(official: str) -> None:
    given: dict[str, Any] = {}
    for what in ("inputs", "outputs"):
        with pytest.raises(InvalidStateError, match=f"such as {what}: ") as caught:
            checked_step(UMBridgeSolver(official, "wave", spec=WAVE, **given), STATES, SPEEDS)
        if what == "inputs":
            given |= yaml.safe_load(str(caught.value).partition("such as ")[2].rstrip("."))
            assert given == {"inputs": [{"channels": ["u"]}, {"channels": ["v"]}, {"parameter": "c"}, {"constant": [0.0, 0.0]}]}
    given["outputs"] = yaml.safe_load(ONE_BY_ONE["outputs"])
    assert checked_step(UMBridgeSolver(official, "wave", spec=WAVE, **given), STATES, SPEEDS).shape == STATES.shape


@contextmanager
def model(evaluate: Callable[[list[Any]], Any] | bytes, sizes: Any, out: Any, **more: Any) -> Iterator[RawServer]:
    """A server of sizes that it may write in any way; `evaluate` makes of the inputs what it answers as output."""
    answers = {
        "/Info": {"protocolVersion": 1.0, "models": ["forward"]},
        "/ModelInfo": {"support": {"Evaluate": True}},
        "/InputSizes": {"inputSizes": sizes},
        "/OutputSizes": {"outputSizes": out},
        **more,
    }

    def reply(connection: Any, path: str, body: bytes) -> None:
        if path == "/Evaluate":
            said = (
                evaluate
                if isinstance(evaluate, bytes)
                else json.dumps({"output": evaluate(json.loads(body)["input"])}).encode()
            )
            connection.sendall(http(said))
        else:
            connection.sendall(http(json.dumps(answers[path]).encode()))

    with raw_server(reply) as server:
        yield server


def step(server: RawServer, shape: Sequence[int], params: Array | None = None, **arguments: Any) -> Array:
    """One step of the state 1, 2, 3, ..."""
    arguments["spec"] = {"state_shape": list(shape), "dtype": "float64", **arguments.get("spec", {})}
    solver = UMBridgeSolver(server.url, timeout=5, **arguments)
    return checked_step(solver, np.arange(1.0, 1 + np.prod(shape)).reshape(1, *shape), params)[0]


@pytest.mark.parametrize("sizes", [[1], 1, [1.0], 1.0])
@pytest.mark.parametrize("out", [[1], 1, [1.0], 1.0])
@pytest.mark.parametrize("answer", [[[3.0]], [3.0], 3.0, [[3]], [3], 3])
def test_a_bare_number_is_a_list_of_one(sizes: Any, out: Any, answer: Any) -> None:
    with model(lambda inputs: answer, sizes, out) as server:
        assert step(server, (1, 1)).tolist() == [[3.0]]


def test_names_of_models_may_be_a_bare_name() -> None:
    with model(lambda inputs: inputs, [4], [4], **{"/Info": {"protocolVersion": 1, "models": "forward"}}) as server:
        assert step(server, (1, 4)).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("unboxed", [False, True])
@pytest.mark.parametrize("diagnostics", [0, 1, 2])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("points", [1, 4])
def test_every_shape_of_the_protocol_is_served(points: int, split: bool, diagnostics: int, unboxed: bool) -> None:
    """Two fields in one vector or two, parameters one by one, and outputs more: `u' = 2 u + a`, `v' = 3 v + b`."""

    def evaluate(inputs: list[Any]) -> Any:
        *fields, a, b = inputs
        u, v = fields if split else (fields[0][:points], fields[0][points:])
        new = [[2 * x + a[0] for x in u], [3 * x + b[0] for x in v]]
        outputs = [*([*new] if split else [new[0] + new[1]]), *([[-1.0]] * diagnostics)]
        return [vector[0] if unboxed and len(vector) == 1 else vector for vector in outputs]

    fields = [points, points] if split else [2 * points]
    words = [{"channels": [0]}, {"channels": [1]}] if split else ["state"]
    with model(evaluate, [*fields, 1, 1], [*fields, *[1] * diagnostics]) as server:
        found = step(
            server,
            (2, points),
            np.array([[0.5, 0.25]]),
            spec={"parameters": ["a", "b"]},
            inputs=[*words, {"parameter": "a"}, {"parameter": "b"}],
            outputs=[*words, *["ignore"] * diagnostics],
        )
    state = np.arange(1.0, 1 + 2 * points).reshape(2, points)
    np.testing.assert_array_equal(found, [2 * state[0] + 0.5, 3 * state[1] + 0.25])


@given(data=st.data())
def test_vectors_put_back_what_they_hold_in_any_order(data: st.DataObject) -> None:
    channels, points = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    spec = SolverSpec(name="any", state_shape=(channels, points), dt=1.0, dtype="float64")
    order = data.draw(st.permutations(range(channels)))
    cuts = sorted(data.draw(st.sets(st.integers(1, channels)))) if channels > 1 else []
    words = [{"channels": list(part)} for part in np.split(np.array(order), cuts) if len(part)]
    words = [{"channels": [int(c) for c in word["channels"]]} for word in words]
    state = np.arange(1.0, 1 + channels * points).reshape(channels, points)
    vectors, into = input_vectors(words, spec).pack(state, None), np.zeros((channels, points))
    outputs = output_vectors(words, spec)
    assert outputs.have_sizes([vector.size for vector in vectors])
    for number, vector in enumerate(vectors):
        outputs.unpack(number, vector, into)
    np.testing.assert_array_equal(into, state)


@pytest.mark.parametrize(
    ("sizes", "shape", "spec", "words"),
    [
        ([4, 4], (2, 4), {}, "inputs: [{channels: [0]}, {channels: [1]}]"),
        ([4, 4], (2, 4), {"channels": ["NO", "O3"]}, "inputs: [{channels: ['NO']}, {channels: [O3]}]"),
        ([4, 1, 1], (1, 4), {"parameters": ["a", "b"]}, "inputs: [state, {parameter: a}, {parameter: b}]"),
        ([4, 2, 3], (1, 4), {"parameters": ["a", "b"]}, "inputs: [state, parameters, {constant: [0.0, 0.0, 0.0]}]"),
        ([4, 9], (1, 4), {}, "inputs: [state, {constant: [...]}]"),
        ([8, 4], (3, 4), {}, "inputs: [{channels: [0, 1]}, {channels: [2]}]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_words_to_write(
    sizes: Any, shape: tuple[int, ...], spec: dict[str, Any], words: str
) -> None:
    params = np.ones((1, 2)) if "parameters" in spec else None
    with model(lambda inputs: inputs, sizes, sizes) as server, pytest.raises(InvalidStateError) as caught:
        step(server, shape, params, spec=spec)
    assert f"not {sizes}: check the spec's state_shape and parameters, or say what each vector is, such as {words}." in str(
        caught.value
    )
    assert server.count("/Evaluate") == 0


@pytest.mark.parametrize("sizes", [[3], [2, 1], [4, 4, 4, 4, 4], [], None, "4", [True], [4.5], [[4]], {"a": 4}, [None], [-4]])
def test_sizes_that_no_words_fit_are_refused(sizes: Any) -> None:
    with (
        model(lambda inputs: inputs, sizes, [4]) as server,
        pytest.raises(InvalidStateError, match="must have inputs of sizes"),
    ):
        step(server, (1, 4), inputs=["state"])


def test_true_is_no_size_of_one() -> None:
    with model(lambda inputs: inputs, [True], [1]) as server, pytest.raises(InvalidStateError, match=r"not \[True\]"):
        step(server, (1, 1))


def test_diagnostic_outputs_are_offered_to_be_ignored() -> None:
    with (
        model(lambda inputs: inputs, [4], [4, 7]) as server,
        pytest.raises(InvalidStateError, match=r"outputs: \[state, ignore\]"),
    ):
        step(server, (1, 4))


def test_an_ignored_output_may_be_large() -> None:
    with model(lambda inputs: [*inputs, [0.5] * 50_000], [4], [4, 50_000]) as server:
        assert step(server, (1, 4), outputs=["state", "ignore"]).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("output", "error", "said"),
    [
        ([[1.0] * 4], UnreadableOutputError, "not a list of 2 vectors"),
        ([1.0] * 4, UnreadableOutputError, "not a list of 2 vectors"),
        ([[1.0] * 4, [1.0] * 3], InvalidStateError, "must return 4 numbers in output 2, .*, not 3"),
        ([[1.0] * 3, [1.0] * 5], InvalidStateError, "must return 4 numbers in output 1, .*, not 3"),
        ([[1.0] * 4, 1.0], UnreadableOutputError, "in output 2: expected a list of numbers, not float"),
        ([[1.0] * 4, [True] * 4], UnreadableOutputError, "in output 2: .* holds something else"),
        ([[1.0] * 4, ["1"] * 4], UnreadableOutputError, "in output 2: .* holds something else"),
        ([[1.0] * 4, [None] * 4], NonFiniteError, "4 of 8 values"),
        ([[1.0] * 4, ["NaN", 1, 2, "-Inf"]], NonFiniteError, "2 of 8 values"),
        (None, UnreadableOutputError, "not a list of 2 vectors"),
        ("much", UnreadableOutputError, "not a list of 2 vectors"),
    ],
)
def test_answers_of_other_vectors_are_refused(output: Any, error: type[SolverError], said: str) -> None:
    words = [{"channels": [0]}, {"channels": [1]}]
    with model(lambda inputs: output, [4, 4], [4, 4]) as server, pytest.raises(error, match=said):
        step(server, (2, 4), inputs=words, outputs=words)


@pytest.mark.parametrize("word", ["-nan(ind)", "nan(0x8000)", "-NAN", "+inf", "1.#QNAN", "-1.#IND", "1.#INF00", "-1.#INF"])
def test_what_c_writes_for_no_number_is_none(word: str) -> None:
    with (
        model(f'{{"output": [[1.5, {word}, 3]]}}'.encode(), [3], [3]) as server,
        pytest.raises(NonFiniteError, match="1 of 3 values"),
    ):
        step(server, (1, 3))


def test_a_mark_of_the_encoding_in_front_is_no_garbage() -> None:
    with model(b'\xef\xbb\xbf{"output": [[2, 4, 6]]}', [3], [3]) as server:
        assert step(server, (1, 3)).tolist() == [[2, 4, 6]]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_told_with_where_it_leads(status: str) -> None:
    answer: Reply = answer_with(http(b"", status, "Location: https://elsewhere.example/um\r\n"))
    said = f"status {status[:3]}: it redirects to https://elsewhere.example/um: give url the address there"
    with raw_server(answer) as server, pytest.raises(ServerError, match=said):
        step(server, (1, 4))


@pytest.mark.parametrize("version", [True, "1.0", [1.0], 2, None, float("nan")])
def test_other_versions_are_refused(version: Any) -> None:
    info, said = {"protocolVersion": version, "models": ["forward"]}, r"must speak version 1\.0"
    with model(lambda inputs: inputs, [4], [4], **{"/Info": info}) as server, pytest.raises(ServerError, match=said):
        step(server, (1, 4))


FIELDS = {"state_shape": [2, 4], "channels": ["u", "v"], "parameters": ["nu", "k"]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inputs": "state"}, r"inputs must be a list that says what each vector is, such as \[state\], not 'state'"),
        ({"inputs": []}, r"inputs must be a list .*, not \[\]"),
        ({"inputs": {"channels": ["u"]}}, "inputs must be a list"),
        ({"inputs": ["state"]}, "inputs must hold each of the parameters nu, k once"),
        ({"inputs": ["state", {"parameter": "nu"}]}, "each of the parameters nu, k once"),
        ({"inputs": ["state", "parameters", {"parameter": "nu"}]}, "each of the parameters nu, k once"),
        ({"inputs": [{"channels": ["u"]}, "parameters"]}, "inputs must hold each of the 2 channels once"),
        ({"inputs": ["state", {"channels": ["u"]}, "parameters"]}, "inputs must hold each of the 2 channels once"),
        ({"inputs": ["state", "parameters", "ignore"]}, "inputs must not be ignored"),
        ({"inputs": ["state", "parameters", {"constant": float("nan")}]}, "a constant must be finite numbers, not nan"),
        ({"inputs": ["state", "parameters", {"constant": [True]}]}, r"a constant must be finite numbers, not \[True\]"),
        ({"inputs": ["state", "parameters", {"constant": "1e-3"}]}, "a constant must be finite numbers, not '1e-3'"),
        ({"inputs": ["state", {"parameter": False}, {"parameter": "k"}]}, "inputs must say what each vector is"),
        ({"inputs": ["state", {"parameter": "mu"}, {"parameter": "k"}]}, "{parameter: name} of nu, k"),
        ({"inputs": ["stat", "parameters"]}, "not 'stat'"),
        ({"inputs": [{"channels": ["u"], "constant": 1}, "parameters"]}, "inputs must say what each vector is"),
        ({"inputs": [{"channels": "u"}, {"channels": ["v"]}, "parameters"]}, "inputs: channels must be a list of some of u, v"),
        ({"inputs": [{"channels": [False]}, {"channels": ["v"]}, "parameters"]}, "put names such as NO in quotes"),
        ({"outputs": ["state", "parameters"]}, "outputs must be of the state or ignore"),
        ({"outputs": ["state", {"constant": 1}]}, "outputs must be of the state or ignore"),
        ({"outputs": ["ignore"]}, "outputs must hold each of the 2 channels once"),
        ({"outputs": [["ignore", "state"]]}, r"say how many numbers to ignore, \{ignore: 3\}"),
        ({"outputs": [[{"ignore": 0}, "state"]]}, "outputs must say what each vector is"),
        ({"outputs": [None, "state"]}, "outputs must say what each vector is"),
        ({"model": False}, "model must be the name of a model of the server, not False: put it in quotes"),
        ({"model": ""}, "model must be the name"),
        ({"config": {False: 1}}, "config must hold what JSON can, .*: put it in quotes"),
        ({"config": {"a": {1000.0: 1}}}, "put it in quotes"),
        ({"config": {"a": float("nan")}}, "config must hold what JSON can, which has no word for nan"),
        ({"config": {"a": [{"b": np.float32("inf")}]}}, "which has no word for .*inf"),
        ({"config": {"a": np.array([1.0, np.nan])}}, "config must hold what JSON can"),
    ],
)
def test_settings_that_leave_something_open_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        UMBridgeSolver("http://localhost", **{"spec": FIELDS, **settings})
    assert "\n" not in str(caught.value)


def test_words_are_shown_for_any_sizes_or_none_are() -> None:
    spec = SolverSpec(name="one", state_shape=(1, 4), dt=1.0)
    assert suggest_setting("outputs", [1, 4], spec) == "outputs: [ignore, state]"
    assert [suggest_setting("inputs", sizes, spec) for sizes in ([3], [0], [], None, [True])] == [""] * 5


def test_numpys_numbers_go_out_with_a_config_that_later_changes_do_not_reach() -> None:
    config = {"rate": np.float32(1.5), "mesh": {"cells": [np.int64(3)]}, "on": np.bool_(True)}
    with model(lambda inputs: inputs, [4], [4]) as server:
        solver = UMBridgeSolver(server.url, state_shape=(1, 4), config=config)
        config["mesh"]["cells"].append(4)  # type: ignore[index]
        solver.step(np.ones((1, 1, 4), np.float32))
        question = json.loads(next(body for path, body in server.requests if path == "/Evaluate"))
    assert question["config"] == {"rate": 1.5, "mesh": {"cells": [3]}, "on": True}


def test_a_solver_with_parameters_is_not_asked_without_them() -> None:
    with model(lambda inputs: inputs[:1], [4, 1], [4]) as server:
        with pytest.raises(InvalidStateError, match=r"needs parameters of shape \(1, 1\) \(nu\), got None"):
            UMBridgeSolver(server.url, spec={"state_shape": [1, 4], "parameters": ["nu"]}).step(np.ones((1, 1, 4), np.float32))
        assert not server.requests
