"""Connections whose every wait ends at one moment, however slowly the other side trickles bytes."""

from __future__ import annotations

import http.client
import os
import select
import socket
import ssl
import time
from typing import Any

#: Sockets take 0 seconds for "do not wait at all".
LEAST_SECONDS = 1e-3


class _Deadlined:
    """What plain and encrypted sockets are given: the time that is left, before every wait."""

    deadline = float("inf")

    def _limit(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        self.settimeout(max(LEAST_SECONDS, left))  # type: ignore[attr-defined]

    def recv_into(self, *args: Any) -> int:
        self._limit()
        return int(super().recv_into(*args))  # type: ignore[misc]

    def send(self, *args: Any) -> int:
        self._limit()
        return int(super().send(*args))  # type: ignore[misc]

    def sendall(self, *args: Any) -> None:
        self._limit()
        super().sendall(*args)  # type: ignore[misc]


class _PlainSocket(_Deadlined, socket.socket):
    """A socket with a deadline."""


class _EncryptedSocket(_Deadlined, ssl.SSLSocket):
    """An encrypted socket with a deadline."""


class Connection(http.client.HTTPConnection):
    """A kept connection to a server of HTTP or HTTPS. It knows no proxies and follows no redirects.

    Args:
        host: name or address.
        port: its port.
        encrypted: whether to speak HTTPS; certificates are checked against those that the machine trusts.

    Attributes:
        owner: the process that opened it; another one that inherits it may not use it.
        used: whether an answer has come over it.
        stopped: whether it was cut on purpose, by :meth:`stop`.
    """

    def __init__(self, host: str, port: int, encrypted: bool) -> None:
        super().__init__(host, port)
        self.owner = os.getpid()
        self.used = self.stopped = False
        self._encrypted = encrypted
        self._deadline = float("inf")
        self.sock: Any = None
        self._unsent: list[bytes] = []

    def set_deadline(self, deadline: float) -> None:
        """End all waits at a moment of `time.monotonic()`, with a TimeoutError."""
        self._deadline = deadline
        if self.sock is not None:
            self.sock.deadline = deadline

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that was not asked for: the end of the connection, or more of an answer than it said."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def connect(self) -> None:
        """Open it, before the deadline."""
        left = max(LEAST_SECONDS, self._deadline - time.monotonic())
        plain = socket.create_connection((self.host, self.port), left)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._encrypt(plain) if self._encrypted else _PlainSocket(fileno=plain.detach())
        self.sock.deadline = self._deadline
        if self.stopped:
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
        """Keep a part of a request until it is whole: head and body go out together, which wakes the server once."""
        self._unsent.append(data)

    def getresponse(self) -> http.client.HTTPResponse:
        """Send what was kept, over a new connection if there is none, and wait for the head of the answer."""
        request, self._unsent = b"".join(self._unsent), []
        if self.sock is None:
            self.connect()
        self.sock.sendall(request)
        return super().getresponse()

    def __del__(self) -> None:
        self.close()  # a client that is given up says no goodbye

    def stop(self) -> None:
        """Cut it, from another thread: whoever waits for an answer is woken."""
        self.stopped = True
        try:
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is cut already
