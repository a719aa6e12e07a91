"""UM-Bridge servers as solvers: the official one, and ones that fail in every way that they can."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from http_servers import (
    RawServer,
    Reply,
    answer_with,
    cut_after,
    free_port,
    halve,
    hang,
    http,
    official_server,
    raw_server,
    trickle,
    um_bridge,
)
from problems import wait_until

from deepzero_sim import UMBridgeSolver
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.errors import (
    ConfigError,
    ConnectionLostError,
    InvalidStateError,
    MissingExtraError,
    NonFiniteError,
    ServerError,
    SolverError,
    SolverTimeoutError,
    StatesFailedError,
    UnreadableOutputError,
)
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepping import checked_step

SPEC = {"state_shape": [2, 2], "dtype": "float64"}
STATES = np.random.default_rng(0).standard_normal((5, 2, 2))


@pytest.fixture(scope="module")
def official() -> Iterator[str]:
    with official_server() as url:
        yield url


def test_the_official_server_is_asked_bit_for_bit(official: str) -> None:
    assert np.array_equal(checked_step(UMBridgeSolver(official, spec=SPEC), STATES), 0.5 * STATES)


def test_a_shape_is_enough(official: str) -> None:
    solver = UMBridgeSolver(official, state_shape=(1, 4))
    states = STATES.astype(np.float32).reshape(5, 1, 4)
    assert (solver.spec.name, solver.spec.dt, solver.spec.dtype) == ("forward", 1.0, "float32")
    assert np.array_equal(checked_step(solver, states), np.float32(0.5) * states)


def test_parameters_are_the_second_input(official: str) -> None:
    solver = UMBridgeSolver(official, "decay", spec={**SPEC, "parameters": ["rate"]})
    rates = np.linspace(0, 1, 5)[:, None]
    assert np.allclose(checked_step(solver, STATES, rates), STATES * np.exp(-rates[:, :, None]), rtol=1e-15)


def test_it_is_named_in_settings(official: str) -> None:
    args = {"url": official, "state_shape": [1, 4], "config": {}, "timeout": 5, "at_once": 2}
    solver = build_solver(Component("deepzero_sim.UMBridgeSolver", args))
    assert solver.spec.state_shape == (1, 4)


def test_a_copy_in_a_worker_asks_for_itself(official: str) -> None:
    solver = UMBridgeSolver(official, spec=SPEC, at_once=2)
    solver.step(STATES)
    assert np.array_equal(cloudpickle.loads(cloudpickle.dumps(solver)).step(STATES), 0.5 * STATES)


def test_the_official_server_is_given_the_fields_that_a_step_reads(official: str) -> None:
    spec = SolverSpec(
        name="forced",
        state_shape=(1, 4),
        dt=0.1,
        dtype="float64",
        parameters=("scale",),
        inputs=("rate",),  # type: ignore[arg-type]
    )
    random = np.random.default_rng(0)
    states, scales, rates = random.normal(size=(3, 1, 4)), random.random((3, 1)), random.random((3, 1, 4))
    advanced = UMBridgeSolver(official, "forced", spec=spec).step(states, scales, rates)
    np.testing.assert_array_equal(advanced, states * (1 - scales[:, :, None] * rates))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("nan", NonFiniteError, r"3 of 4 values are NaN or infinite, the first at \(0, 0, 0\)"),
        (
            "short",
            ServerError,
            r"an error \(InvalidOutput\): Output vector 0 has invalid length! Model declared 4 but returned 1",
        ),
        ("raise", ServerError, "status 500: 500 Internal Server Error"),
    ],
)
def test_faults_of_the_official_server_are_told(official: str, fault: str, error: type[SolverError], message: str) -> None:
    with pytest.raises(error, match=message):
        checked_step(UMBridgeSolver(official, spec=SPEC, config={"fault": fault}), STATES[:1])


@pytest.mark.parametrize(
    ("model", "spec", "error", "message"),
    [
        ("absent", SPEC, ServerError, r"must have a model 'absent', but has \['forward', 'decay', 'forced', 'silent'\]"),
        ("silent", SPEC, ServerError, "must support Evaluate"),
        ("decay", SPEC, InvalidStateError, r"inputs of sizes \[4\], .*, not \[4, 1\]"),
        ("forward", {"state_shape": [1, 3]}, InvalidStateError, r"inputs of sizes \[3\], .*\(state \(1, 3\)\), not \[4\]"),
        ("forward", {**SPEC, "parameters": ["a", "b"]}, InvalidStateError, r"sizes \[4, 2\], .*parameters a, b\), not \[4\]"),
    ],
)
def test_what_does_not_fit_the_server_is_said(
    official: str, model: str, spec: dict[str, Any], error: type[SolverError], message: str
) -> None:
    solver = UMBridgeSolver(official, model, spec=spec)
    states = np.ones((1, *solver.spec.state_shape), solver.spec.dtype)
    params = np.ones((1, 2)) if spec.get("parameters") else None
    for _ in range(2):  # it does not pass the second time
        with pytest.raises(error, match=message):
            checked_step(solver, states, params)


def reply_json(output: Any) -> Reply:
    return answer_with(http(json.dumps(output).encode()))


def error_of(message: str, status: str = "400 Bad Request") -> Reply:
    return answer_with(http(json.dumps({"error": {"type": "InvalidInput", "message": message}}).encode(), status))


FAULTS: dict[str, tuple[Reply, type[SolverError], str]] = {
    "500 with text": (answer_with(http(b"segfault\nin line 3", "500 Oops")), ServerError, "status 500: segfault in line 3"),
    "500 with HTML": (answer_with(http(b"<html><h1>Oh\nno</h1></html>", "500 Oops")), ServerError, "status 500: Oh no"),
    "500 with nothing": (answer_with(http(b"", "500 Oops")), ServerError, "status 500: it says nothing of the cause"),
    "an error of the protocol": (error_of("too\nhot"), ServerError, r"an error \(InvalidInput\): too hot"),
    "an error as success": (error_of("too hot", "200 OK"), ServerError, r"an error \(InvalidInput\): too hot"),
    "a long error": (error_of("x" * 10**6), ServerError, "status 400: .*x{200}"),
    "an error that is no object": (reply_json({"error": "bad"}), ServerError, "bad"),
    "a redirect": (answer_with(http(b"", "301 Moved", "Location: /\r\n")), ServerError, "status 301"),
    "cut": (cut_after(b""), ConnectionLostError, "the connection was lost"),
    "half an answer": (cut_after(http(b'{"output": [[1', length=50)), ConnectionLostError, "the connection was lost"),
    "hangs": (hang, SolverTimeoutError, "longer than 0.3 seconds"),
    "trickles": (trickle(http(b'{"output": [[', length=9999)), SolverTimeoutError, "longer than 0.3 seconds"),
    "lists in lists": (answer_with(http(b"[" * 60_000)), UnreadableOutputError, "no object of JSON"),
    "garbage": (answer_with(http(b"\x00\xff garbage")), UnreadableOutputError, "no object of JSON"),
    "half of JSON": (answer_with(http(b'{"output": [[1, 2')), UnreadableOutputError, "no object of JSON"),
    "a list": (reply_json([1, 2]), UnreadableOutputError, "no object of JSON"),
    "nothing of the kind": (reply_json({"result": 1}), UnreadableOutputError, "not a list of one vector"),
    "a bare vector": (reply_json({"output": [1, 2, 3, 4]}), UnreadableOutputError, "not a list of one vector"),
    "two vectors": (reply_json({"output": [[1], [2]]}), UnreadableOutputError, "not a list of one vector"),
    "words for numbers": (reply_json({"output": [["1", "2", "3", "4"]]}), UnreadableOutputError, "holds something else"),
    "a number for a vector": (reply_json({"output": [4]}), UnreadableOutputError, "a list of numbers, not int"),
    "too short": (reply_json({"output": [[1.0, 2.0]]}), InvalidStateError, "must return 4 numbers, .*, not 2"),
    "too long": (reply_json({"output": [[1.0] * 5]}), InvalidStateError, "must return 4 numbers, .*, not 5"),
    "far too long": (reply_json({"output": [[1.0] * 10**5]}), UnreadableOutputError, "bytes, more than the"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_apart(name: str) -> None:
    reply, error, message = FAULTS[name]
    started = time.monotonic()
    with raw_server(um_bridge(reply)) as server, pytest.raises(error, match=message) as raised:
        checked_step(UMBridgeSolver(server.url, spec=SPEC, timeout=0.3), STATES[:1])
    assert time.monotonic() - started < 1.5
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


@pytest.mark.parametrize("word", ["NaN", "null", "Infinity", "-Infinity", "nan", "inf", "-nan", "1e999"])
def test_what_is_not_finite_is_said_to_be_so(word: str) -> None:
    body = f'{{"output": [[1.0, {word}, 3, 4.0]]}}'.encode()
    with raw_server(um_bridge(answer_with(http(body)))) as server, pytest.raises(NonFiniteError, match="1 of 4 values"):
        checked_step(UMBridgeSolver(server.url, spec=SPEC), STATES[:1])


def test_what_single_precision_cannot_hold_is_said_to_be_infinite() -> None:
    with raw_server(um_bridge(reply_json({"output": [[1e300, 1, 2, 3]]}))) as server, pytest.raises(NonFiniteError):
        checked_step(UMBridgeSolver(server.url, state_shape=(1, 4)), np.ones((1, 1, 4), np.float32))


@pytest.mark.parametrize("info", [{"protocolVersion": 0.9}, {"protocolVersion": "1.0"}, {"protocolVersion": None}])
def test_another_version_of_the_protocol_is_refused(info: dict[str, Any]) -> None:
    with raw_server(um_bridge(halve, info=info)) as server, pytest.raises(ServerError, match=r"must speak version 1\.0"):
        checked_step(UMBridgeSolver(server.url, spec=SPEC), STATES)


def test_something_else_than_um_bridge_is_said() -> None:
    said = r"no object of JSON \(It works!\): check the URL"
    page = answer_with(http(b"<h1>It works!</h1>"))
    with raw_server(page) as server, pytest.raises(UnreadableOutputError, match=said):
        checked_step(UMBridgeSolver(server.url, spec=SPEC), STATES)


def test_a_closed_port_is_said() -> None:
    with pytest.raises(ConnectionLostError, match="start the server"):
        checked_step(UMBridgeSolver(f"http://127.0.0.1:{free_port()}", spec=SPEC), STATES)


def test_a_server_may_be_started_anew_between_steps() -> None:
    with raw_server(um_bridge(halve)) as server:
        solver = UMBridgeSolver(server.url, spec=SPEC)
        checked_step(solver, STATES)
        server.cut()
        checked_step(solver, STATES)
    with raw_server(um_bridge(halve), server.port) as again:
        assert np.array_equal(checked_step(solver, STATES), 0.5 * STATES)
        assert again.requests[0][0] == "/Evaluate"  # it was looked at already


def test_one_state_that_fails_costs_no_other_its_answer() -> None:
    def fails_where_negative(connection: Any, path: str, body: bytes) -> None:
        reply = halve if json.loads(body)["input"][0][0] > 0 else error_of("negative")
        reply(connection, path, body)

    with raw_server(um_bridge(fails_where_negative)) as server:
        for at_once in (1, 3):
            with pytest.raises(StatesFailedError) as raised:
                UMBridgeSolver(server.url, spec=SPEC, at_once=at_once).step(STATES)
            failed = set(np.flatnonzero(STATES[:, 0, 0] <= 0))
            assert failed and raised.value.failures.keys() == failed
            there = [i for i in range(5) if i not in failed]
            assert np.array_equal(raised.value.advanced[there], 0.5 * STATES[there])


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_calls_are_under_way_at_once(at_once: int) -> None:
    def slow(*arguments: Any) -> None:
        time.sleep(0.02)
        halve(*arguments)

    with raw_server(um_bridge(slow)) as server:
        solver = UMBridgeSolver(server.url, spec=SPEC, at_once=at_once)
        results: list[Array] = []
        threads = [threading.Thread(target=lambda: results.append(solver.step(STATES))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most_under_way == at_once and server.connections <= at_once
        assert all(np.array_equal(result, 0.5 * STATES) for result in results) and len(results) == 2
        assert server.count("/Info") == 1


def questions(server: RawServer) -> list[Any]:
    return [json.loads(body) for path, body in server.requests if path == "/Evaluate"]


def test_config_goes_along_with_every_call() -> None:
    with raw_server(um_bridge(halve)) as server:
        UMBridgeSolver(server.url, spec=SPEC, config={"mesh": "fine"}).step(STATES[:2])
        assert [question["config"] for question in questions(server)] == [{"mesh": "fine"}] * 2
        sizes = [json.loads(body) for path, body in server.requests if path == "/InputSizes"]
        assert sizes == [{"name": "forward", "config": {"mesh": "fine"}}]


def test_a_state_goes_out_as_one_vector_channel_by_channel() -> None:
    with raw_server(um_bridge(halve)) as server:
        UMBridgeSolver(server.url, spec=SPEC).step(np.array([[[1.0, 2.0], [3.0, 0.1]]]))
        assert questions(server)[0]["input"] == [[1.0, 2.0, 3.0, 0.1]]


def test_single_precision_goes_out_as_what_it_is() -> None:
    with raw_server(um_bridge(halve)) as server:
        UMBridgeSolver(server.url, state_shape=(1, 4)).step(np.full((1, 1, 4), 0.1, np.float32))
        assert questions(server)[0]["input"] == [[float(np.float32(0.1))] * 4]


WAITING = """
import sys
import numpy as np
from deepzero_sim import UMBridgeSolver
solver = UMBridgeSolver(sys.argv[1], state_shape=(1, 4), timeout=600, at_once=int(sys.argv[2]))
solver.step(np.ones((5, 1, 4), np.float32))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3])
def test_who_waits_is_interrupted(at_once: int) -> None:
    with raw_server(um_bridge(hang)) as server:
        program = [sys.executable, "-c", WAITING, server.url, str(at_once)]
        with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert wait_until(lambda: server.count("/Evaluate") == at_once, 60)
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=20)
            finally:
                process.kill()
        assert "KeyboardInterrupt" in errors and server.count("/Evaluate") == at_once


def test_a_missing_package_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepzero-sim\[http\]'"):
        UMBridgeSolver("http://localhost", state_shape=(1, 4))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"url": "localhost:4242", "state_shape": [1, 4]}, "expected a URL"),
        ({"url": "http://localhost"}, "expected state_shape, such as"),
        ({"url": "http://localhost", "state_shape": [1, 4], "spec": SPEC}, "give one of them"),
        ({"url": "http://localhost", "state_shape": [4]}, "add the channel axis"),
        ({"url": "http://localhost", "state_shape": [1, 4], "config": {"a": object()}}, "config must hold what JSON can"),
        ({"url": "http://localhost", "state_shape": [1, 4], "config": 3}, "config must be values by their names"),
        ({"url": "http://localhost", "state_shape": [1, 4], "at_once": 0}, "at_once must be"),
        ({"url": "http://localhost", "state_shape": [1, 4], "timeout": 0}, "timeout must be"),
    ],
)
def test_settings_that_cannot_be_used_are_said_at_once(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_solver(Component("deepzero_sim.UMBridgeSolver", args))


def test_parameters_that_no_one_named_are_refused() -> None:
    with raw_server(um_bridge(halve)) as server, pytest.raises(InvalidStateError, match="its spec names none"):
        checked_step(UMBridgeSolver(server.url, spec=SPEC), STATES, np.ones((5, 1)))
