"""The connections of a server: their largest number, and the time that they may take to ask."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Seconds that any request may take to arrive, and bytes a second that a large one must exceed.
ARRIVAL_SECONDS, SLOWEST_RATE = 30.0, 1e5

#: Seconds that a connection may stay open between requests.
IDLE_SECONDS = 75.0

#: Most connections at once, and descriptors that are left to solvers, for their programs and files.
MAX_CONNECTIONS, RESERVED_DESCRIPTORS = 1000, 16

#: Seconds that a connection too many has to send its request, which is answered with BUSY_ANSWER.
REFUSAL_SECONDS = 1.0

#: Seconds that any other connection has for its request before it may be closed for a new one.
SAFE_SECONDS = 0.5

BUSY_BODY = b'{"error":{"type":"ServerBusy","message":"the server answers as many requests as it can: ask again later."}}'
BUSY_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BUSY_BODY)
) + BUSY_BODY

TIMEOUT_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connections:
    """All connections of a server.

    Where there are as many as there may be, the one that has waited longest for a request, or for the rest of one, is closed
    for a new one, so that clients that send half a request and wait keep nobody out. If none waits, the new one is refused.

    Args:
        largest_request: Most bytes of a request.
        most: Most connections; if None, as many as the process may have descriptors for.
    """

    def __init__(self, largest_request: int, most: int | None = None) -> None:
        free = most or _free_descriptors()
        self.backlog = max(1, min(100, free // 8))
        # The backlog may be accepted thrice before the first of it are closed.
        self._most = max(1, min(MAX_CONNECTIONS, free - 4 * self.backlog))
        self.arrival_seconds = ARRIVAL_SECONDS + largest_request / SLOWEST_RATE
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        self._waiting: dict[_Connection, None] = {}
        self._refused: dict[_Connection, None] = {}

    def protocol(self, handler: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """Make the protocol of a new connection from what handles its requests."""
        return _Connection(self, handler)

    def find(self, transport: asyncio.BaseTransport | None) -> _Connection | None:
        """Find a connection that is open."""
        return None if transport is None else self._open.get(transport)

    def admit(self, connection: _Connection, transport: asyncio.Transport) -> bool:
        """Admit a new connection, in the place of one that waits if need be."""
        longest = next(iter(self._waiting), None)
        if len(self._open) >= self._most and longest is not None and longest.has_waited(SAFE_SECONDS):
            longest.abort()
        if len(self._open) >= self._most:
            self._refuse(connection)
            return False
        self._open[transport] = connection
        return True

    def _refuse(self, connection: _Connection) -> None:
        if len(self._refused) >= self.backlog:
            oldest = next(iter(self._refused))
            oldest.refuse()
            oldest.close()
        self._refused[connection] = None

    def set_waiting(self, connection: _Connection, is_waiting: bool) -> None:
        """Note that a connection waits for a request, or does not; the last one that begins to is the last that is closed."""
        self._waiting.pop(connection, None)
        if is_waiting:
            self._waiting[connection] = None

    def remove(self, connection: _Connection, transport: asyncio.BaseTransport) -> None:
        """Forget a connection."""
        self._open.pop(transport, None)
        self._waiting.pop(connection, None)
        self._refused.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Passes a connection's data on to the handler of its requests, and ends it if the client is too slow."""

    def __init__(self, connections: Connections, handler: Callable[[], asyncio.Protocol]) -> None:
        self._connections, self._make_handler = connections, handler
        self._handler: asyncio.Protocol | None = None
        self._is_idle = False  # all requests so far are answered
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._connections.admit(self, transport):
            self._set_timer(REFUSAL_SECONDS)
            return
        self._handler = self._make_handler()
        self._handler.connection_made(transport)
        self._connections.set_waiting(self, True)
        self._set_timer(self._connections.arrival_seconds)

    def data_received(self, data: bytes) -> None:
        if self._handler is None:
            self.refuse()
            return
        if self._is_idle:
            self._is_idle = False
            self._set_timer(self._connections.arrival_seconds)
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._handler is None else self._handler.eof_received()

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        self._connections.remove(self, self._transport)
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def begin_answer(self) -> None:
        """Stop the clock while the request, which has arrived, is answered."""
        self._is_idle = False
        self._connections.set_waiting(self, False)
        self._set_timer(None)

    def end_answer(self) -> None:
        """Wait for the client to read its answer and to ask again."""
        if not self._transport.is_closing():
            self._is_idle = True
            self._connections.set_waiting(self, True)
            self._set_timer(max(IDLE_SECONDS, self._connections.arrival_seconds))

    def has_waited(self, seconds: float) -> bool:
        """Tell if the connection has been waiting for so long."""
        return asyncio.get_running_loop().time() - self._waiting_since >= seconds

    def refuse(self) -> None:
        """Tell the client that there are too many; it closes the connection when it has read that."""
        if not self._is_idle:
            self._is_idle = True
            self._transport.write(BUSY_ANSWER)
            self._transport.write_eof()

    def close(self) -> None:
        """Close the connection when all that was written is on its way."""
        self._connections.remove(self, self._transport)
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._connections.remove(self, self._transport)
        self._transport.abort()

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self._time_out)
        self._waiting_since = loop.time()

    def _time_out(self) -> None:
        if self._handler is None or self._is_idle or self._transport.get_write_buffer_size():
            self.abort()
        else:
            self._transport.write(TIMEOUT_ANSWER)
            self._transport.close()


def _free_descriptors() -> int:
    """Return the number of files that this process may still open for connections."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 2 * MAX_CONNECTIONS
    opened = 0
    with suppress(OSError):
        opened = len(os.listdir("/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"))  # noqa: PTH208 - just names
    return max(4, limit - opened - RESERVED_DESCRIPTORS)
