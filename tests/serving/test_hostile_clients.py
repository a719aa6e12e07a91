"""Web pages, clients that leave, and clients that never finish: over sockets, against servers in processes of their own."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import umbridge
from aiohttp.test_utils import make_mocked_request

import deepzero_sim as dz
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError
from deepzero_sim.serving import connections
from deepzero_sim.serving.access import Access

PROGRAM = Path(__file__).parents[1] / "served_decay.py"


@contextmanager
def start_server(*arguments: str, descriptors: int | None = None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server's process, and its port; at the end it has said nothing more."""
    command = [sys.executable, str(PROGRAM), "0", *arguments]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line + process.communicate()[0]
        yield process, int(line.rpartition(":")[2])
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == ""
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with start_server("0.5") as (_, port):
        yield port


def ask(
    port: int, path: str = "/Info", body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Send one request; a content type only if it is among the headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def evaluate(port: int, seconds: float = 0.0, headers: Mapping[str, str] | None = None, **config: Any) -> tuple[int, Any]:
    """One evaluation, whose every step takes so many seconds (halved with each)."""
    return ask(port, "/Evaluate", {"name": "slow", "input": [[seconds, 1.0]], "config": config}, headers)


@contextmanager
def connect(port: int, content: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(content)
        yield connection


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost", "LocalHost:{port}", "localhost.:1", "[::1]:80", "127.0.0.2"])
def test_clients_that_name_this_machine_are_answered(port: int, host: str) -> None:
    assert ask(port, headers={"Host": host.format(port=port)})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost:{port}.evil.example",
        "10.0.0.1",
        "[2001:db8::1]:{port}",
        "0x7f.1",
        "2130706433",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/Info", "/Evaluate", "/none"])
def test_a_name_that_was_made_to_point_here_reads_nothing(port: int, host: str, path: str) -> None:
    body = {"name": "slow", "input": [[0.0, 1.0]]} if path == "/Evaluate" else None
    status, answer = ask(port, path, body, {"Host": host.format(port=port)})
    assert status == 403 and "Host must name this server, which listens on 127.0.0.1" in answer["error"]["message"]


def test_a_request_names_one_host(port: int) -> None:
    for head in (b"GET /Info HTTP/1.1\r\n\r\n", b"GET /Info HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"):
        with connect(port, head) as connection:
            assert connection.recv(12) in (b"HTTP/1.1 403", b"HTTP/1.0 400", b"HTTP/1.1 400")


@pytest.mark.parametrize("header", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize("kind", [{}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}])
def test_web_pages_are_refused(port: int, header: dict[str, str], kind: dict[str, str]) -> None:
    assert ask(port, headers=header)[0] == 403
    status, answer = evaluate(port, headers={**header, **kind})
    assert status == 403 and "web pages" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ({}, 200),  # the official client for Julia
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "Application/JSON"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "text/plain; charset=application/json"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_a_request_is_of_json(port: int, kind: dict[str, str], status: int) -> None:
    assert evaluate(port, headers=kind)[0] == status


def request(host: str, **headers: str) -> Any:
    return make_mocked_request("GET", "/Info", headers={"Host": host, **headers})


def test_a_server_of_all_addresses_is_asked_by_any_address_and_by_its_own_names() -> None:
    access, own = Access("0.0.0.0", ["0.0.0.0"]), socket.gethostname()  # noqa: S104
    for host in ("10.1.2.3:4242", "[fe80::1]", "localhost", own, f"{own.upper()}:1"):
        assert access.refusal(request(host)) is None
    assert access.refusal(request("evil.example")) is not None
    named = Access("node17.cluster", ["10.1.2.3"])
    assert named.refusal(request("node17.cluster:4242")) is None and named.refusal(request("node18.cluster")) is not None


@pytest.mark.parametrize("steps", [2**31 - 1, 10**6 + 1, 10**30])
def test_steps_are_bounded(port: int, steps: int) -> None:
    status, answer = evaluate(port, steps=steps)
    assert status == 400 and "steps in the config of this model must be a whole number from 1 to 1000000" in str(answer)


def test_an_evaluation_that_takes_too_long_is_refused_and_ends(port: int) -> None:
    for seconds, config in ((0.0, {"steps": 10**6}), (1.5, {})):  # between steps, and within one
        begun = time.monotonic()
        status, answer = evaluate(port, seconds, **config)
        assert status == 503 and time.monotonic() - begun < 1.4
        assert answer["error"]["type"] == "ServerTimeout" and "longer than the 0.5 s" in answer["error"]["message"]
    begun = time.monotonic()
    assert evaluate(port)[0] == 200 and time.monotonic() - begun < 1.4  # the one that was under way has ended


def post(seconds: float, **config: Any) -> bytes:
    body = json.dumps({"name": "slow", "input": [[seconds, 1.0]], "config": config}).encode()
    return b"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body


HALF = [b"", b"P", b"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\n", post(0.0)[:-5]]


def half_sent(port: int, stack: ExitStack, pause: float = 0.0) -> None:
    """Two hundred requests that do not end, and an honest one now and then, some time after the others."""
    for number in range(200):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        with suppress(OSError):  # it was closed for a later one
            connection.sendall(HALF[number % len(HALF)])
        if number % 50 == 49:
            time.sleep(pause)
            begun = time.monotonic()
            assert answer_in_time(port, begun + 5) == [[0.0, 0.5]]
            assert time.monotonic() - begun < 5


def answer_in_time(port: int, until: float) -> Any:
    """Ask as an honest client, again if the server says that it is busy, which UM-Bridge's client meets with a `KeyError`."""
    while True:
        try:
            return umbridge.HTTPModel(f"http://localhost:{port}", "slow")([[0.0, 1.0]])
        except KeyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_requests_that_are_half_sent_keep_nobody_out(port: int) -> None:
    with ExitStack() as stack:
        half_sent(port, stack)


def status_or_busy(port: int) -> int:
    """Status of an answer; a connection that is refused may be closed before all of the request is sent."""
    with suppress(BrokenPipeError, ConnectionResetError):
        return evaluate(port, 0.02)[0]
    return 503


@pytest.mark.slow
def test_few_descriptors_are_shared_among_those_who_ask() -> None:
    with start_server(descriptors=96) as (_, port):
        with ExitStack() as stack:
            half_sent(port, stack, 0.6)
        with ThreadPoolExecutor(50) as pool:
            found = list(pool.map(lambda number: status_or_busy(port), range(100)))
        assert set(found) <= {200, 503} and found.count(200) > 20


def test_fifty_honest_clients_are_all_answered(port: int) -> None:
    model = umbridge.HTTPModel(f"http://localhost:{port}", "slow")
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: model([[-1.0, float(number)]]), range(300)))
    assert answers == [[[-0.5, number / 2]] for number in range(300)]


class Sleeps(dz.Solver):
    """Half a second a step, or what is said."""

    spec = dz.SolverSpec(name="slow", state_shape=(1, 2), dt=1.0, thread_safe=False)

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds, self.steps = seconds, 0

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.steps += 1
        time.sleep(self.seconds)
        return np.asarray(0.5 * states)


def test_an_evaluation_ends_when_its_client_leaves() -> None:
    solver = Sleeps(0.01)
    port = serve_here(solver)
    with ExitStack() as stack:
        for _ in range(4):  # one of them is evaluated, the others wait
            stack.enter_context(connect(port, post(0.0, steps=10**6)))
        time.sleep(0.2)
        assert solver.steps > 0
    time.sleep(0.2)
    taken = solver.steps
    time.sleep(0.2)
    assert solver.steps == taken
    assert evaluate(port)[0] == 200 and solver.steps == taken + 1


def serve_here(solver: dz.Solver | None = None, **options: Any) -> int:
    """The port of a server in a thread of this process, which ends with it."""
    addresses: list[str] = []
    models = {"slow": dz.ServedSolver(solver or Sleeps())}
    options = {"port": 0, "report": addresses.append, **options}
    threading.Thread(target=dz.serve, args=(models,), kwargs=options, daemon=True).start()
    while not addresses:
        time.sleep(0.01)
    return int(addresses[0].rpartition(":")[2])


def test_who_does_not_finish_a_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ARRIVAL_SECONDS", 0.3)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.2)
    port = serve_here()
    begun = time.monotonic()
    with ExitStack() as stack:
        late = [stack.enter_context(connect(port, half)) for half in HALF]
        drip = stack.enter_context(connect(port, b"GET /Info HTTP/1.1\r\n"))
        for _ in range(8):  # slower than it may, but never silent
            time.sleep(0.1)
            try:
                drip.sendall(b"X-A: b\r\n")
            except OSError:
                break
        assert time.monotonic() - begun < 5
        for connection in late:
            assert connection.recv(100).startswith((b"HTTP/1.1 408", b""))
            assert connection.recv(1000).count(b"\0") == 0
        kept = stack.enter_context(connect(port, b"GET /Info HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert kept.recv(20).startswith(b"HTTP/1.1 200")
        assert evaluate(port)[0] == 200  # which takes longer than a request may to arrive
        while kept.recv(1000):
            pass


def test_a_client_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
    port = serve_here()
    with connect(port, post(0.0)) as first:
        time.sleep(0.1)
        status, answer = evaluate(port)
        assert status == 503 and "as many requests as it can" in answer["error"]["message"]
        assert first.recv(20).startswith(b"HTTP/1.1 200")
    assert evaluate(port)[0] == 200


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "10", True, 1e9])
def test_a_timeout_that_is_none_is_said(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout must be a positive number of seconds"):
        dz.serve({"slow": dz.ServedSolver(Sleeps())}, port=0, timeout=timeout)
