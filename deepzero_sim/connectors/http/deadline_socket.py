"""Connections whose every wait ends at one deadline, however slowly the other side trickles bytes.

A socket's own timeout limits each wait alone, so a server that sends a byte a second would hold a call for ever.
"""

from __future__ import annotations

import http.client
import os
import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

#: Shortest timeout of a socket: 0 seconds would mean not to wait at all.
SHORTEST_WAIT = 1e-3


class _Deadline:
    """Mixin of plain and encrypted sockets that limits every wait to the time that is left."""

    deadline = float("inf")

    def _limit(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        self.settimeout(max(SHORTEST_WAIT, left))  # type: ignore[attr-defined]

    def recv_into(self, *args: Any) -> int:
        self._limit()
        return int(super().recv_into(*args))  # type: ignore[misc]

    def send(self, *args: Any) -> int:
        self._limit()
        return int(super().send(*args))  # type: ignore[misc]

    def sendall(self, *args: Any) -> None:
        self._limit()
        super().sendall(*args)  # type: ignore[misc]


class _PlainSocket(_Deadline, socket.socket):
    """A socket with a deadline."""


class _EncryptedSocket(_Deadline, ssl.SSLSocket):
    """An encrypted socket with a deadline."""


class Connection(http.client.HTTPConnection):
    """A kept connection to a server of HTTP or HTTPS, without proxies and redirects.

    Args:
        host: Name or address.
        port: Number of the port.
        encrypted: True for HTTPS; certificates are checked against those that the machine trusts.

    Attributes:
        owner: Process that opened the connection; another one that inherits it may not use it.
        is_used: True once an answer has come over it.
        is_stopped: True once :meth:`stop` has cut it.
    """

    def __init__(self, host: str, port: int, encrypted: bool) -> None:
        super().__init__(host, port)
        self.owner = os.getpid()
        self.is_used = self.is_stopped = False
        self._encrypted = encrypted
        self._deadline = float("inf")
        self.sock: Any = None
        self._unsent: list[bytes] = []

    def set_deadline(self, deadline: float) -> None:
        """End all later waits at a moment of `time.monotonic()`, with a TimeoutError."""
        self._deadline = deadline
        if self.sock is not None:
            self.sock.deadline = deadline

    @property
    def is_quiet(self) -> bool:
        """True unless something came unasked: the end of the connection, or more of an answer than it announced."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def connect(self) -> None:
        """Open the connection before the deadline."""
        left = max(SHORTEST_WAIT, self._deadline - time.monotonic())
        plain = socket.create_connection((self.host, self.port), left)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._encrypt(plain) if self._encrypted else _PlainSocket(fileno=plain.detach())
        self.sock.deadline = self._deadline
        if self.is_stopped:
            raise ConnectionAbortedError("it was stopped")

    def _encrypt(self, plain: socket.socket) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        context.sslsocket_class = _EncryptedSocket
        try:
            return context.wrap_socket(plain, server_hostname=self.host)  # with the time that was left to connect
        except BaseException:
            plain.close()
            raise

    def send(self, data: Any) -> None:
        """Collect a part of a request: head and body go out together, which wakes the server once."""
        self._unsent.append(data)

    def getresponse(self) -> http.client.HTTPResponse:
        """Send the whole request, over a new connection if there is none, and wait for the head of the answer."""
        request, self._unsent = b"".join(self._unsent), []
        if self.sock is None:
            self.connect()
        self.sock.sendall(request)
        return super().getresponse()

    def __del__(self) -> None:
        self.close()  # whoever drops a client closes nothing

    def stop(self) -> None:
        """Cut the connection from another thread: whoever waits for an answer is woken."""
        self.is_stopped = True
        with suppress(OSError):  # it is cut already
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)
