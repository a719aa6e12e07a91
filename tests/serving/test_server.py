"""A server in a process of its own, asked by the official client, by ours, and by who does not know HTTP."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import umbridge
from http_servers import free_port, reachable

import deepzero_sim as dz
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.solver.stepping import checked_step

PROGRAM = Path(__file__).parents[1] / "served_decay.py"


@contextmanager
def start_server(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process, and its address as it says it."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(port)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line + process.communicate()[0]
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with start_server() as (_, address):
        yield address


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_the_official_client_is_answered(address: str) -> None:
    model = umbridge.HTTPModel(address, "slow")
    assert (model.get_input_sizes(), model.get_output_sizes()) == ([2], [2])
    assert (model.supports_evaluate(), model.supports_gradient()) == (True, False)
    assert model([[-1.0, 0.1]], {"steps": 2}) == [[-0.25, 0.025]]
    with pytest.raises(Exception, match=r"InvalidInput: input must be vectors of sizes \[2\], not \[3\]"):
        model([[1.0, 2.0, 3.0]])


def test_our_client_is_answered_bit_for_bit(address: str) -> None:
    states = -np.abs(np.random.default_rng(0).standard_normal((4, 1, 2)))
    solver = dz.UMBridgeSolver(address, "slow", spec={"state_shape": (1, 2), "dtype": "float64"}, at_once=4)
    assert np.array_equal(checked_step(solver, states), 0.5 * states)


def test_a_solver_that_is_not_thread_safe_is_asked_by_one_at_a_time_while_all_else_is_answered(address: str) -> None:
    ended: list[float] = []

    def evaluate() -> None:
        umbridge.HTTPModel(address, "slow")([[0.4, 0.0]])
        ended.append(time.monotonic())

    threads = [threading.Thread(target=evaluate) for _ in range(2)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert umbridge.supported_models(address) == ["slow"]
    asked = time.monotonic()
    for thread in threads:
        thread.join()
    assert asked < min(ended) and max(ended) - begun >= 0.8


def test_connections_are_kept_and_heads_answered(address: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(address), timeout=5)
    for method, path, status in (
        ("HEAD", "/Info", 200),
        ("GET", "/Info", 200),
        ("GET", "/none", 404),
        ("GET", "/Evaluate", 405),
    ):
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        assert response.status == status and connection.sock is not None
    connection.close()


def test_bad_requests_do_no_harm(address: str) -> None:
    for garbage in (b"\x00\xff\r\n\r\n", b"POST /Evaluate HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"GET /Info"):
        with socket.create_connection(("127.0.0.1", port_of(address)), 5) as connection:
            connection.sendall(garbage)
    assert umbridge.supported_models(address) == ["slow"]


def test_a_request_that_is_far_too_large_is_refused(address: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(address), timeout=5)
    connection.request("POST", "/Evaluate", json.dumps({"name": "slow", "input": [[0.1] * 20_000]}))
    response = connection.getresponse()
    error = json.loads(response.read())["error"]
    assert (response.status, error["type"]) == (413, "InvalidInput") and "at most 65664 bytes" in error["message"]
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_told_to(number: signal.Signals) -> None:
    with start_server() as (process, address):
        model = umbridge.HTTPModel(address, "slow")  # with a connection that is kept
        model([[0.0, 1.0]])
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
        assert (process.returncode, output) == (0, "")
        assert not reachable(port_of(address))


@pytest.mark.slow
def test_an_evaluation_of_many_steps_does_not_keep_it_from_ending() -> None:
    with start_server() as (process, address):
        with socket.create_connection(("127.0.0.1", port_of(address)), 5) as connection:
            body = json.dumps({"name": "slow", "input": [[0.01, 1.0]], "config": {"steps": 2**31 - 1}}).encode()
            connection.sendall(b"POST /Evaluate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert umbridge.supported_models(address) == ["slow"]
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
        assert (process.returncode, output) == (0, "")


def test_what_is_no_http_is_told_to_clients_only() -> None:
    with start_server() as (process, address):
        with socket.create_connection(("127.0.0.1", port_of(address)), 5) as connection:
            connection.sendall(b"POST /Evaluate HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.0 400")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == ""


@pytest.mark.parametrize("package", ["orjson", "aiohttp"])
def test_a_missing_package_is_said(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'deepzero-sim\[http\]'"):
        dz.serve({"same": dz.ServedSolver(dz.as_solver(lambda states: states, SPEC))}, port=0)


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = rf"expected a free port to listen on, not 127\.0\.0\.1:{port} \(Address already in use\)"
        with pytest.raises(ConfigError, match=said):
            dz.serve({"burgers": dz.ServedSolver(dz.as_solver(lambda states: states, SPEC))}, port=port)


SPEC = dz.SolverSpec(name="same", state_shape=(1, 2), dt=1.0)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", -1, "port must be"),
        ("127.0.0.1", "x", "port must be"),
        ("", 0, "host must be"),
        ("no-such-host.invalid", 0, "expected a free port"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_said(host: str, port: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dz.serve({"same": dz.ServedSolver(dz.as_solver(lambda states: states, SPEC))}, host, port)


def test_it_serves_outside_of_the_main_thread_too() -> None:
    addresses: list[str] = []
    models = {"same": dz.ServedSolver(dz.as_solver(lambda states: states, SPEC))}
    threading.Thread(target=dz.serve, args=(models, "127.0.0.1", free_port(), addresses.append), daemon=True).start()
    while not addresses:
        time.sleep(0.01)
    assert umbridge.HTTPModel(addresses[0], "same")([[1.0, 2.0]]) == [[1.0, 2.0]]
