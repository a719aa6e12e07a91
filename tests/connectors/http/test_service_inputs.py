"""Fields that a step reads, sent to services: as a vector of an UM-Bridge model, as arrays of a Tesseract."""

from __future__ import annotations

import base64
import json
import socket

import numpy as np
import pytest
from http_servers import http, raw_server
from numpy.typing import NDArray

import deepzero_sim as dz
from deepzero_sim.connectors.http.umbridge_vectors import input_vectors

SPEC = dz.SolverSpec(
    name="decay",
    state_shape=(1, 4),
    dt=0.1,
    dtype="float64",
    channels=("s",),
    parameters=("scale",),
    inputs=("rate",),  # type: ignore[arg-type]
)


def case() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(0)
    return random.normal(size=(3, 1, 4)), random.random((3, 1)), random.random((3, 1, 4))


def test_vectors_hold_every_field_once() -> None:
    taken = np.arange(8.0).reshape(2, 4)
    given = [[{"channels": ["rate"]}, {"channels": ["s"]}], "parameters"]
    vector, row = input_vectors(given, SPEC).pack(taken, np.array([9.0]))
    assert vector.tolist() == [4, 5, 6, 7, 0, 1, 2, 3] and row.tolist() == [9]
    with pytest.raises(dz.ConfigError, match=r"inputs must hold each of the 1 channels once, and rate, not \['state'"):
        input_vectors(["state", "parameters"], SPEC)
    assert [vector.tolist() for vector in input_vectors(None, SPEC).pack(taken, np.array([9.0]))] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [9],
    ]


def test_a_tesseract_is_given_each_field_by_its_name() -> None:
    """A service of the protocol that computes `s (1 - scale rate)` from what was sent."""

    def array(value: dict[str, object]) -> NDArray[np.float64]:
        data = value["data"]
        assert isinstance(data, dict)
        found = np.frombuffer(base64.b64decode(data["buffer"]), str(value["dtype"]))
        return found.reshape(value["shape"])  # type: ignore[call-overload,no-any-return]

    def reply(connection: socket.socket, path: str, body: bytes) -> None:
        if path == "/health":
            connection.sendall(http(b'{"status": "ok"}'))
            return
        given = {name: array(value) for name, value in json.loads(body)["inputs"].items()}
        made = given["state"] * (1 - given["params"] * given["rate"])
        data = {"buffer": base64.b64encode(made.tobytes()).decode(), "encoding": "base64"}
        answer = {"object_type": "array", "shape": made.shape, "dtype": "float64", "data": data}
        connection.sendall(http(json.dumps({"state": answer}).encode()))

    states, scales, rates = case()
    with raw_server(reply) as server:
        solver = dz.TesseractSolver(server.url, spec=SPEC)
        np.testing.assert_array_equal(solver.step(states, scales, rates), states * (1 - scales[:, :, None] * rates))
    with pytest.raises(dz.ConfigError, match="inputs must leave 'rate' to the solver"):
        dz.TesseractSolver("http://localhost:1", spec=SPEC, inputs={"rate": 1})
