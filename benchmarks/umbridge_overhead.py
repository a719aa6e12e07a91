"""Overhead of a solver step over UM-Bridge, compared with the same bytes posted by hand and with the official client.

One trivial server, in a process of its own, answers every evaluation with a vector that was serialised before: it computes
nothing and reads no JSON, and reports how long it was busy with the request. Calls of the clients take turns, in random order:

* `solver`: `dz.UMBridgeSolver`, a step of one state from array to array (without `checked_step`, which all solvers share);
* `bare_json`: `http.client` over one connection, `json.dumps` of the state's list before and `json.loads` after it;
* `bare_bytes`: the same, with a body that was serialised before and an answer that is not parsed;
* `official`: `umbridge.HTTPModel`, from list to list.

`overhead` is the median time of a call less the server's own. Run: python benchmarks/umbridge_overhead.py
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.http.umbridge import UMBridgeSolver

SIZES = (64, 4096, 65536)


def serve(size: int, port: Connection, busy: Any) -> None:
    """Answer evaluations of vectors of one size; `busy` is set to the seconds that the last one took here."""
    vector = json.dumps({"output": [np.random.default_rng(0).standard_normal(size).tolist()]}).encode()
    answers = {
        "/Info": json.dumps({"protocolVersion": 1.0, "models": ["forward"]}).encode(),
        "/ModelInfo": json.dumps({"support": {"Evaluate": True}}).encode(),
        "/InputSizes": json.dumps({"inputSizes": [size]}).encode(),
        "/OutputSizes": json.dumps({"outputSizes": [size]}).encode(),
        "/Evaluate": vector,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            started = time.perf_counter()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = answers[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            busy.value = time.perf_counter() - started
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - what the library calls

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


def clients(port: int, states: Array) -> dict[str, Callable[[], Any]]:
    """Make a call of each client."""
    import umbridge  # noqa: PLC0415 - only what is compared with

    url, values = f"http://127.0.0.1:{port}", states.reshape(-1).tolist()
    solver = UMBridgeSolver(url, spec={"state_shape": states.shape[1:], "dtype": "float64"})
    official = umbridge.HTTPModel(url, "forward")
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def question() -> bytes:
        return json.dumps({"name": "forward", "input": [values], "config": {}}).encode()

    def post(body: bytes) -> bytes:
        connection.request("POST", "/Evaluate", body, {"Content-Type": "application/json"})
        return connection.getresponse().read()

    written = question()
    return {
        "solver": lambda: solver.step(states),
        "bare_json": lambda: json.loads(post(question()))["output"][0],
        "bare_bytes": lambda: post(written),
        "official": lambda: official([values]),
    }


def measure(size: int, seconds: float) -> dict[str, Any]:
    """Measure median milliseconds of each client's calls, which take turns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    busy = context.Value("d", 0.0)
    server = context.Process(target=serve, args=(size, theirs, busy), daemon=True)
    server.start()
    try:
        calls = clients(ours.recv(), np.random.default_rng(1).standard_normal((1, 1, size)))
        return time_calls(calls, busy, seconds)
    finally:
        server.terminate()
        server.join()


def time_calls(calls: dict[str, Callable[[], Any]], busy: Any, seconds: float) -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    own: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    order, random = list(calls), np.random.default_rng(2)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        random.shuffle(order)  # a call meets what the one before left behind: a server's thread that ends, a cache
        for name in order:
            started = time.perf_counter()
            calls[name]()
            taken[name].append(time.perf_counter() - started)
            own[name].append(busy.value)
    return summary(taken, own)


def summary(taken: dict[str, list[float]], own: dict[str, list[float]]) -> dict[str, Any]:
    milliseconds = {name: 1e3 * statistics.median(times) for name, times in taken.items()}
    servers = {name: 1e3 * statistics.median(times) for name, times in own.items()}
    overhead = {name: milliseconds[name] - servers[name] for name in taken}
    return {
        "calls": len(taken["solver"]),
        "milliseconds": round_all(milliseconds),
        "of_the_server": round_all(servers),
        "overhead": round_all(overhead),
        "overhead_to": round_all({name: overhead["solver"] / value for name, value in overhead.items() if name != "solver"}),
    }


def round_all(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(number, 3) for name, number in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of every size")
    seconds = parser.parse_args().seconds
    print(json.dumps({str(size): measure(size, seconds) for size in SIZES}, indent=2))


if __name__ == "__main__":
    main()
