"""Tesseract services as solvers: a real one where there is the program that serves it, and ones that fail."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from http_servers import Reply, answer_with, cut_after, free_port, hang, http, program, raw_server, trickle

from deepzero_sim import TesseractSolver
from deepzero_sim.common.components import Component
from deepzero_sim.errors import (
    ConfigError,
    ConnectionLostError,
    InvalidStateError,
    NonFiniteError,
    ServerError,
    SolverError,
    SolverTimeoutError,
    UnreadableOutputError,
)
from deepzero_sim.solver.build import build_solver
from deepzero_sim.solver.stepping import checked_step

RUNTIME = shutil.which("tesseract-runtime")
API = Path(__file__).parents[2] / "tesseract_api.py"

NAMES: dict[str, Any] = {"params": "rates", "output": "next_state"}
SPEC = {"state_shape": [1, 4], "dtype": "float64", "parameters": ["rate"]}
STATES = np.random.default_rng(0).standard_normal((3, 1, 4))
RATES = np.linspace(0, 1, 3)[:, None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if RUNTIME is None:
        pytest.skip("tesseract-runtime is not on the PATH: pip install 'tesseract-core[runtime]' in an environment of its own")
    port, folder = free_port(), tmp_path_factory.mktemp("tesseract")
    environment = {**os.environ, "TESSERACT_API_PATH": str(API)}
    with program(RUNTIME, "serve", "--host", "127.0.0.1", "--port", port, port=port, cwd=folder, env=environment):
        yield f"http://127.0.0.1:{port}"
    assert [path.name for path in folder.glob("run_*")] == ["run_deepzero-sim"]  # one folder, not one for every call


def test_a_real_service_is_asked_bit_for_bit(service: str) -> None:
    solver = TesseractSolver(service, spec=SPEC, **NAMES)
    assert np.array_equal(checked_step(solver, STATES, RATES), STATES * np.exp(-RATES[:, :, None]))
    assert np.array_equal(cloudpickle.loads(cloudpickle.dumps(solver)).step(STATES, RATES), solver.step(STATES, RATES))


def test_other_inputs_and_single_precision_go_along(service: str) -> None:
    solver = TesseractSolver(service, spec={**SPEC, "dtype": "float32"}, inputs={"dt": 2.0}, at_once=2, **NAMES)
    expected = STATES * np.exp(-2 * RATES[:, :, None])
    assert np.allclose(checked_step(solver, STATES.astype(np.float32), RATES.astype(np.float32)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "rate", "error", "message"),
    [
        ({}, -1.0, ServerError, "status 500: Internal Server Error"),
        ({}, 101.0, NonFiniteError, "12 of 12 values"),
        ({"state": "u"}, 0.0, ServerError, "status 422: .*Field required"),
        ({"inputs": {"dx": 1}}, 0.0, ServerError, "status 422: .*Extra inputs are not permitted"),
        ({"output": "state"}, 0.0, UnreadableOutputError, "without 'state'"),
    ],
)
def test_faults_of_a_real_service_are_told(
    service: str, args: dict[str, Any], rate: float, error: type[SolverError], message: str
) -> None:
    with pytest.raises(error, match=message):
        checked_step(TesseractSolver(service, spec=SPEC, **{**NAMES, **args}), STATES, np.full((3, 1), rate))


def array(**changes: Any) -> dict[str, Any]:
    """An answer's array of four ones."""
    values = {"object_type": "array", "shape": [1, 4], "dtype": "float64"}
    data = {"buffer": base64.b64encode(np.ones(4)).decode(), "encoding": "base64"}
    return {**values, "data": {**data, **changes.pop("data", {})}, **changes}


def reply_json(output: Any) -> Reply:
    return answer_with(http(json.dumps({"next_state": output}).encode()))


FAULTS: dict[str, tuple[Reply, type[SolverError], str]] = {
    "cut": (cut_after(b""), ConnectionLostError, "the connection was lost"),
    "hangs": (hang, SolverTimeoutError, "longer than 0.3 seconds"),
    "trickles": (trickle(http(b'{"next_state": "', length=9999)), SolverTimeoutError, "longer than 0.3 seconds"),
    "garbage": (answer_with(http(b"\x00\xff garbage")), UnreadableOutputError, "an array that cannot be read"),
    "a list": (answer_with(http(b"[1]")), UnreadableOutputError, "an array that cannot be read"),
    "nothing": (answer_with(http(b"{}")), UnreadableOutputError, "without 'next_state'"),
    "a number": (reply_json(3), UnreadableOutputError, "an array that cannot be read"),
    "an unknown dtype": (reply_json(array(dtype="float7")), UnreadableOutputError, "an array that cannot be read"),
    "words": (reply_json(array(dtype="U8")), UnreadableOutputError, "expected real numbers"),
    "complex numbers": (reply_json(array(dtype="complex128")), UnreadableOutputError, "expected real numbers"),
    "half of base64": (reply_json(array(data={"buffer": "AAA"})), UnreadableOutputError, "cannot be read"),
    "too few bytes": (reply_json(array(data={"buffer": "AAAAAAAA8D8="})), UnreadableOutputError, "expected 4 numbers, not 1"),
    "a file": (reply_json(array(data={"encoding": "binref"})), UnreadableOutputError, "expected base64"),
    "packed bytes": (reply_json(array(data={"compression": "lz4"})), UnreadableOutputError, "without compression"),
    "no encoding": (reply_json({**array(), "data": {}}), UnreadableOutputError, "without 'encoding'"),
    "another shape": (reply_json(array(shape=[4, 1])), InvalidStateError, r"shape \(1, 4\), not \(4, 1\)"),
    "far too much": (reply_json(array(data={"buffer": "A" * 10**6})), UnreadableOutputError, "bytes, more than"),
    "no success": (answer_with(http(b"<h1>Not found</h1>", "404 Not Found")), ServerError, "status 404: Not found"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_apart(name: str) -> None:
    apply, error, message = FAULTS[name]

    def reply(connection: Any, path: str, body: bytes) -> None:
        (answer_with(http(b'{"status": "ok"}')) if path == "/health" else apply)(connection, path, body)

    started = time.monotonic()
    with raw_server(reply) as server, pytest.raises(error, match=message):
        checked_step(TesseractSolver(server.url, spec=SPEC, timeout=0.3, **NAMES), STATES, RATES)
    assert time.monotonic() - started < 1.5


def test_what_is_no_tesseract_is_said() -> None:
    with raw_server(answer_with(http(b"", "404 Not Found"))) as server, pytest.raises(ServerError, match="it is no Tesseract"):
        checked_step(TesseractSolver(server.url, spec=SPEC), STATES, RATES)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"url": "localhost:8000", "state_shape": [1, 4]}, "expected a URL"),
        ({"url": "http://localhost"}, "expected state_shape, such as"),
        ({"url": "http://localhost", "state_shape": [1, 4], "inputs": {"a": object()}}, "inputs must hold what JSON can"),
        ({"url": "http://localhost", "state_shape": [1, 4], "inputs": "dx"}, "inputs must be values by their names"),
        ({"url": "http://localhost", "state_shape": [1, 4], "state": ""}, "state must be the name"),
        ({"url": "http://localhost", "state_shape": [1, 4], "output": 3}, "output must be the name"),
        ({"url": "http://localhost", "state_shape": [1, 4], "inputs": {"state": 1}}, "inputs must leave 'state'"),
    ],
)
def test_settings_that_cannot_be_used_are_said_at_once(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_solver(Component("deepzero_sim.TesseractSolver", args))
