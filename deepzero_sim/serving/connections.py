"""Connections of a server: how many there may be, and how long they may take to ask."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Seconds for a request to arrive, and bytes a second that it needs no more than; what is kept open between requests.
ARRIVAL, SLOWEST, KEPT = 30.0, 1e5, 75.0

#: Connections at once, at most, and descriptors that are left to solvers: their programs and files.
MOST, OTHERS = 1000, 16

#: Seconds that a connection too many has to send its request, which is answered with FULL; and that any other one has for its
#: request before it may be closed for a new one.
PATIENCE, AT_LEAST = 1.0, 0.5

FULL_BODY = b'{"error":{"type":"ServerBusy","message":"the server answers as many requests as it can: ask again later."}}'
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(FULL_BODY)
) + FULL_BODY

LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connections:
    """All connections of a server.

    Where there are as many as there may be, the one that has waited longest for a request, or for the rest of one, is closed
    for a new one, so that who sends half of a request and waits keeps nobody out. If there is none, the new one is told so.

    Args:
        largest_request: bytes that a request may have.
        most: connections, at most; as many as the process may have descriptors for if None.
    """

    def __init__(self, largest_request: int, most: int | None = None) -> None:
        free = most or _free_descriptors()
        self.backlog = max(1, min(100, free // 8))
        self._most = max(1, min(MOST, free - 4 * self.backlog))  # so many may be accepted thrice before the first are closed
        self.arrival = ARRIVAL + largest_request / SLOWEST
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        self._waiting: dict[_Connection, None] = {}
        self._refused: dict[_Connection, None] = {}

    def protocol(self, handler: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """Make the protocol of a new connection from what handles its requests."""
        return _Connection(self, handler)

    def of(self, transport: asyncio.BaseTransport | None) -> _Connection | None:
        """Find a connection that is open."""
        return None if transport is None else self._open.get(transport)

    def admit(self, connection: _Connection, transport: asyncio.Transport) -> bool:
        """Take a new connection, in the place of one that waits if need be."""
        longest = next(iter(self._waiting), None)
        if len(self._open) >= self._most and longest is not None and longest.has_waited(AT_LEAST):
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

    def waits(self, connection: _Connection, waits: bool) -> None:
        """Note whether a connection waits for a request; the last one that begins to is the last that is closed."""
        self._waiting.pop(connection, None)
        if waits:
            self._waiting[connection] = None

    def remove(self, connection: _Connection, transport: asyncio.BaseTransport) -> None:
        """Forget a connection."""
        self._open.pop(transport, None)
        self._waiting.pop(connection, None)
        self._refused.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Hands a connection on to what handles its requests, and ends it if it keeps us waiting."""

    def __init__(self, connections: Connections, handler: Callable[[], asyncio.Protocol]) -> None:
        self._connections, self._make = connections, handler
        self._handler: asyncio.Protocol | None = None
        self._between = False  # whether all requests so far are answered
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0  # when it began to wait
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._connections.admit(self, transport):
            self._wait(PATIENCE)
            return
        self._handler = self._make()
        self._handler.connection_made(transport)
        self._connections.waits(self, True)
        self._wait(self._connections.arrival)

    def data_received(self, data: bytes) -> None:
        if self._handler is None:
            self.refuse()
            return
        if self._between:
            self._between = False
            self._wait(self._connections.arrival)
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
        self._wait(None)
        self._connections.remove(self, self._transport)
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def keep(self) -> None:
        """Leave the connection open for as long as its request, which has arrived, is answered."""
        self._between = False
        self._connections.waits(self, False)
        self._wait(None)

    def rest(self) -> None:
        """Wait for the client to take its answer and to ask again."""
        if not self._transport.is_closing():
            self._between = True
            self._connections.waits(self, True)
            self._wait(max(KEPT, self._connections.arrival))

    def has_waited(self, seconds: float) -> bool:
        """Tell whether it has been waiting for so long."""
        return asyncio.get_running_loop().time() - self._since >= seconds

    def refuse(self) -> None:
        """Tell the client that there are too many; it closes the connection when it has read that."""
        if not self._between:
            self._between = True
            self._transport.write(FULL)
            self._transport.write_eof()

    def close(self) -> None:
        """Close the connection when all that was written is on its way."""
        self._connections.remove(self, self._transport)
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._connections.remove(self, self._transport)
        self._transport.abort()

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer, self._since = None if seconds is None else loop.call_later(seconds, self._late), loop.time()

    def _late(self) -> None:
        if self._handler is None or self._between or self._transport.get_write_buffer_size():
            self.abort()
        else:
            self._end(LATE)

    def _end(self, words: bytes) -> None:
        self._transport.write(words)
        self._transport.close()


def _free_descriptors() -> int:
    """How many more files this process may open for connections."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 2 * MOST
    taken = 0
    with suppress(OSError):
        taken = len(os.listdir("/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"))  # noqa: PTH208 - just names
    return max(4, limit - taken - OTHERS)
