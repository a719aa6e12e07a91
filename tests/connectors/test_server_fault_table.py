"""Every kind of failure of a real server against every policy, in the queries of a gradient."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from http_servers import RawServer, answer_with, cut_after, free_port, hang, http, raw_server, trickle, um_bridge
from test_fault_table import LIMIT, LOST, POINTS, STEP, UNROLL, asked

import deepzero_sim as dz
from deepzero_sim.solver import stepping


def answer_short(connection: socket.socket, path: str, body: bytes) -> None:
    values = json.loads(body)["input"][0]
    connection.sendall(http(json.dumps({"output": [values[:-1]]}).encode()))


def answer_value(token: bytes) -> Callable[[socket.socket, str, bytes], None]:
    def reply(connection: socket.socket, path: str, body: bytes) -> None:
        connection.sendall(http(b'{"output": [[' + b", ".join([token] * POINTS) + b"]]}"))

    return reply


#: What the server does to states beyond the limit, and what that is called.
FAULTS = {
    "500": (answer_with(http(b'{"error": {"type": "ModelError", "message": "it diverged"}}', "500 Oops")), "server-error"),
    "400": (answer_with(http(b"<html>no</html>", "400 Bad")), "server-error"),
    "cut": (cut_after(http(b'{"output": [[1.0, ', length=1000)), "connection-lost"),
    "closed": (cut_after(b""), "connection-lost"),
    "hang": (hang, "timeout"),
    "trickle": (trickle(http(b'{"output": [[', length=100)), "timeout"),
    "garbage": (answer_with(http(b"hello")), "unreadable-output"),
    "shape": (answer_short, "wrong-shape"),
    "NaN": (answer_value(b"NaN"), "non-finite"),
    "null": (answer_value(b"null"), "non-finite"),
}

DIVERGED = ("NaN", "null")


def smooth(connection: socket.socket, values: list[float]) -> None:
    state = np.array(values)
    connection.sendall(http(json.dumps({"output": [(state + 0.1 * (state.mean() - state)).tolist()]}).encode()))


@contextmanager
def server(fault: str = "500", limit: float = math.inf, times: float = math.inf, port: int = 0) -> Iterator[RawServer]:
    """A model that fails on states beyond a limit, so many times."""
    left, counting = [times], threading.Lock()

    def evaluate(connection: socket.socket, path: str, body: bytes) -> None:
        values = json.loads(body)["input"][0]
        with counting:
            fails = max(map(abs, values)) > limit and left[0] > 0
            left[0] -= fails
        if fails:
            FAULTS[fault][0](connection, path, body)
        else:
            smooth(connection, values)

    with raw_server(um_bridge(evaluate, POINTS), port) as opened:
        yield opened


def solver(url: str, deterministic: bool = True) -> dz.UMBridgeSolver:
    spec = {"state_shape": [1, POINTS], "dtype": "float64", "deterministic": deterministic}
    return dz.UMBridgeSolver(url, spec=spec, timeout=0.5, at_once=2)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def whole() -> object:
    with server() as opened:
        return asked(solver(opened.url), "abort")[0].changes


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", ["abort", "retry(1)"])
def test_abort(fault: str, policy: str) -> None:
    with server(fault, LIMIT) as opened, pytest.raises(dz.SolverError) as caught:
        asked(solver(opened.url), policy)
    said = str(caught.value)
    assert f"failure: {FAULTS[fault][1]}, at layers." in said and said.endswith(f"{STEP}).") and "\n" not in said


@pytest.mark.parametrize("fault", FAULTS)
def test_drop(whole: object, fault: str) -> None:
    with server(fault, LIMIT) as opened:
        answers, incidents = asked(solver(opened.url), "drop")
    expected = whole.clone()  # type: ignore[attr-defined]
    expected[LOST] = 0
    assert list(answers.dropped) == LOST and answers.changes.equal(expected)
    assert [(one.kind, one.action) for one in incidents] == [(FAULTS[fault][1], "dropped")] * len(LOST)


@pytest.mark.parametrize("fault", FAULTS)
def test_retry_of_what_passes(whole: object, fault: str) -> None:
    with server(fault, LIMIT, times=2) as opened:
        answers, incidents = asked(solver(opened.url, fault not in DIVERGED), "retry(2)")
    assert answers.dropped == () and answers.changes.equal(whole)  # type: ignore[arg-type]
    # a connection that was open before, and closes without a word, is opened once more without asking the policy
    count = 1 if fault == "closed" else 2
    assert [(one.kind, one.action) for one in incidents] == [(FAULTS[fault][1], "retried")] * count


def test_a_server_that_is_not_there() -> None:
    gone = solver(f"http://127.0.0.1:{free_port()}")
    for policy in ("abort", "retry(2)", "drop"):  # what all queries share cannot be dropped
        with pytest.raises(dz.ConnectionLostError, match="Connection refused"):
            asked(gone, policy)


@pytest.mark.parametrize("policy", ["abort", "drop"])
def test_a_server_that_goes_away_in_the_middle(policy: str) -> None:
    with server() as opened:
        whole_steps = len(asked(solver(opened.url), "abort")[0].changes) * (UNROLL - 1)

    def leave(connection: socket.socket, path: str, body: bytes) -> None:
        if opened.count("/Evaluate") > UNROLL + whole_steps // 2:
            opened.close()
        else:
            smooth(connection, json.loads(body)["input"][0])

    with raw_server(um_bridge(leave, POINTS)) as opened:
        if policy == "abort":
            with pytest.raises(dz.ConnectionLostError, match=r"failure: connection-lost, at layers\."):
                asked(solver(opened.url), policy)
            return
        answers, _ = asked(solver(opened.url), policy)
    assert 0 < len(answers.dropped) < len(answers.changes)
    assert answers.changes[list(answers.dropped)].eq(0).all()


def test_a_server_that_comes_back_loses_no_query(whole: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "FIRST_PAUSE", 0.2)
    port = free_port()

    def come_back() -> None:
        time.sleep(0.5)
        with server(port=port):
            done.wait(30)

    def leave(connection: socket.socket, path: str, body: bytes) -> None:
        if first.count("/Evaluate") == UNROLL + 7:
            first.close()
        else:
            smooth(connection, json.loads(body)["input"][0])

    done, back = threading.Event(), threading.Thread(target=come_back)
    with raw_server(um_bridge(leave, POINTS), port) as first:
        back.start()
        answers, incidents = asked(solver(first.url), "retry(6)")
    done.set()
    back.join()
    assert answers.changes.equal(whole)  # type: ignore[arg-type]
    assert {(one.kind, one.action) for one in incidents} == {("connection-lost", "retried")}
