"""Servers that fail as real ones do: raw sockets that speak just enough HTTP to answer, or not, as a test wants."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: A test's own answer to a request; it may close the connection.
Reply = Callable[[socket.socket, str, bytes], None]


class RawServer:
    """A server on a port of its own, with a thread for every connection.

    Args:
        reply: Function that answers every request: `(connection, path, body)`.
        port: Number of the port; 0 for a free one.
        wrapped: Function that a connection goes through before it is used.

    Attributes:
        connections: Number of connections so far.
        requests: Paths and bodies, in the order they came.
        under_way, most_under_way: Number of requests being answered, now and at most.
    """

    def __init__(
        self, reply: Reply, port: int = 0, wrapped: Callable[[socket.socket], socket.socket] = lambda plain: plain
    ) -> None:
        self.reply, self._wrapped = reply, wrapped
        self.connections = 0
        self.requests: list[tuple[str, bytes]] = []
        self.under_way = self.most_under_way = 0
        self._open: list[socket.socket] = []
        self._counting = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, path: str) -> int:
        """Count the requests for a path."""
        return sum(requested == path for requested, _ in self.requests)

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Close all connections from this side; clients notice when they ask again."""
        while self._open:
            connection = self._open.pop()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        cut = suppress(OSError, ValueError)  # from either side
        with cut, self._wrapped(connection) as wrapped, wrapped.makefile("rb") as file:
            while line := file.readline():
                path, body = self._request(line, file)
                self._answer(wrapped, path, body)

    def _request(self, line: bytes, file: Any) -> tuple[str, bytes]:
        length = 0
        while (header := file.readline()).strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return line.split()[1].decode(), file.read(length)

    def _answer(self, connection: socket.socket, path: str, body: bytes) -> None:
        with self._counting:
            self.requests.append((path, body))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self.reply(connection, path, body)
        finally:
            with self._counting:
                self.under_way -= 1


@contextmanager
def raw_server(reply: Reply, port: int = 0, **options: Any) -> Iterator[RawServer]:
    server = RawServer(reply, port, **options)
    try:
        yield server
    finally:
        server.close()


def http(body: bytes, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    """Make a whole answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n{headers}\r\n".encode() + body


def answer_with(answer: bytes) -> Reply:
    """Answer every request alike."""
    return lambda connection, path, body: connection.sendall(answer)


def cut_after(answer: bytes) -> Reply:
    """Send so much, and close the connection."""

    def reply(connection: socket.socket, path: str, body: bytes) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    return reply


def hang(connection: socket.socket, path: str, body: bytes) -> None:
    """Send nothing until the client has gone."""
    connection.recv(1)


def trickle(answer: bytes) -> Reply:
    """Send an answer that never ends, a byte at a time."""

    def reply(connection: socket.socket, path: str, body: bytes) -> None:
        connection.sendall(answer)
        while True:
            connection.sendall(b"1")
            time.sleep(0.02)

    return reply


def um_bridge(evaluate: Reply, size: int = 4, info: Mapping[str, Any] | None = None) -> Reply:
    """Speak UM-Bridge's protocol for one model `forward` of vectors of a size, with a test's own answer to `/Evaluate`."""
    answers = {
        "/Info": {"protocolVersion": 1.0, "models": ["forward"], **(info or {})},
        "/ModelInfo": {"support": {"Evaluate": True, "Gradient": False}},
        "/InputSizes": {"inputSizes": [size]},
        "/OutputSizes": {"outputSizes": [size]},
    }

    def reply(connection: socket.socket, path: str, body: bytes) -> None:
        if path in answers:
            connection.sendall(http(json.dumps(answers[path]).encode()))
        else:
            evaluate(connection, path, body)

    return reply


def halve(connection: socket.socket, path: str, body: bytes) -> None:
    """Halve the input."""
    values = json.loads(body)["input"][0]
    connection.sendall(http(json.dumps({"output": [[0.5 * value for value in values]]}).encode()))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def reachable(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_for(port: int, seconds: float = 60.0) -> None:
    """Wait until someone listens there."""
    end = time.monotonic() + seconds
    while not reachable(port):
        assert time.monotonic() < end, f"nobody listens on port {port}"
        time.sleep(0.05)


@contextmanager
def program(*arguments: Any, port: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a server in a process of its own, and kill it at the end."""
    process = subprocess.Popen([*map(str, arguments)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    try:
        wait_for(port)
        yield process
    finally:
        process.kill()
        process.communicate()


#: Script of a server of the official package, kept from listening on all addresses.
OFFICIAL = Path(__file__).with_name("umbridge_server.py")


@contextmanager
def official_server(script: Path = OFFICIAL) -> Iterator[str]:
    """Run the official package's server, and yield its URL."""
    port = free_port()
    with program(sys.executable, script, port, port=port):
        yield f"http://127.0.0.1:{port}"
