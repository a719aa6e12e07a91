"""HTTP as connectors need it: kept connections, one deadline for a whole call, answers of a limited size, failures in words.

Evaluations are idempotent: to ask twice does no harm but takes the time twice. So a request is sent a second time in one case
only, when a kept connection turns out to have been closed by the server in the meantime, before any of an answer came. All
else is left to the failure policy. Proxies that the environment names are not used, and redirects are not followed.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from deepzero_sim.common.types import is_number
from deepzero_sim.connectors.http.deadline_socket import Connection
from deepzero_sim.errors import (
    ConfigError,
    ConnectionLostError,
    SolverError,
    SolverTimeoutError,
    UnreadableOutputError,
)

#: Bytes of an answer that says nothing of a state: sizes, errors.
SMALL = 2**16

#: The first status of HTTP that means to ask somewhere else.
REDIRECTS = 300

#: Letters of a server's own words that are passed on.
WORDS = 300


class Answer(NamedTuple):
    """What a server answered.

    Args:
        status: of HTTP.
        body: the whole of it; of an answer that is no success at most the first :data:`SMALL` bytes.
        location: where a redirect leads to.
    """

    status: int
    body: bytes
    location: str = ""


class HTTPClient:
    """Asks one server.

    Args:
        url: where it is: `http://host:port`, or https, with a path if it has one.
        timeout: seconds that one call may take in all: to connect, to send, to wait, to receive.

    Raises:
        ConfigError: no such URL, or no such timeout.
    """

    def __init__(self, url: str, timeout: float) -> None:
        if not is_number(timeout) or not 0 < timeout < float("inf"):
            raise ConfigError(f"timeout must be a positive number of seconds, not {timeout!r}.")
        parts = _parts(url)
        self.url = url.rstrip("/")
        self.timeout = float(timeout)
        self._address = (str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80), parts.scheme == "https")
        self._path = parts.path.rstrip("/")
        self._start_empty()

    def _start_empty(self) -> None:
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()

    def said(self, path: str) -> str:
        """Who answered, for messages."""
        return f"the server at {self.url} answered {path}"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, limit: int = SMALL
    ) -> Answer:
        """Ask, and wait for the whole answer, of whatever status.

        Args:
            method: GET or POST.
            path: behind the URL, with its slash.
            body: JSON.
            headers: more of them.
            limit: bytes that a successful answer may have.

        Raises:
            SolverTimeoutError, ConnectionLostError, UnreadableOutputError: there is none.
        """
        deadline = time.monotonic() + self.timeout
        connection = self._take()
        self._busy.add(connection)
        try:
            connection.set_deadline(deadline)
            answer = _exchange(connection, method, self._path + path, body, headers or {}, limit)
        except BaseException as error:
            connection.close()
            failure = self._failure(error, path)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._busy.discard(connection)
        if connection.sock is not None:
            self._idle.append(connection)
        return answer

    def _take(self) -> Connection:
        """A kept connection of this process, the last used first, or a new one."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if connection.owner == os.getpid() and connection.quiet:
                return connection
            connection.close()
        return Connection(*self._address)

    def stop(self) -> None:
        """End all calls that are under way, with a ConnectionLostError, and close what is kept."""
        for connection in list(self._busy):
            connection.stop()
        with suppress(IndexError):  # another thread was quicker
            while True:
                self._idle.pop().close()

    def _failure(self, error: BaseException, path: str) -> SolverError | None:
        """An error of Python's as one of ours, or None for what is no failure of the server."""
        what = f"asking {self.url}{path}"
        match error:
            case _TooLargeError():
                return UnreadableOutputError(f"{self.said(path)} with {error}: it is not what was asked for.")
            case TimeoutError():
                return SolverTimeoutError(
                    f"{what} took longer than {self.timeout:g} seconds: raise timeout if it needs more, or look at the server."
                )
            case ConnectionRefusedError():
                return ConnectionLostError(f"{what} failed ({error}): start the server, or check the URL's host and port.")
            case http.client.IncompleteRead() | OSError():  # RemoteDisconnected, too
                why = str(error) or type(error).__name__
                return ConnectionLostError(f"{what} failed, the connection was lost ({why}): is the server still running?")
            case http.client.HTTPException():
                return UnreadableOutputError(f"{what} gave no answer in HTTP ({shortened(str(error))}): check the URL's port.")
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_idle", "_busy")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_empty()


class _TooLargeError(Exception):
    """An answer is larger than any that was asked for."""


def _exchange(connection: Connection, method: str, path: str, body: bytes, headers: Mapping[str, str], limit: int) -> Answer:
    """One request and its answer, over a new connection if the kept one was closed in the meantime."""
    try:
        response = _sent(connection, method, path, body, headers)
    except (ConnectionResetError, BrokenPipeError):  # RemoteDisconnected, too
        if not connection.used or connection.stopped:
            raise
        connection.close()
        connection.used = False
        response = _sent(connection, method, path, body, headers)
    with response:
        location = response.getheader("Location", "") if REDIRECTS <= response.status < http.client.BAD_REQUEST else ""
        answer = Answer(response.status, _read(response, limit), location)
        if response.will_close or response.status != http.client.OK:
            connection.close()  # of an error, something may be left to read
    connection.used = True
    return answer


def _sent(connection: Connection, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    connection.request(method, path, body or None, {"Content-Type": "application/json", **headers})
    return connection.getresponse()


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    if response.status != http.client.OK:
        return response.read(SMALL)
    if response.length is not None and response.length > limit:
        raise _TooLargeError(f"{response.length} bytes, more than the {limit} that the answer can have")
    body = response.read(limit + 1)
    if len(body) > limit:
        raise _TooLargeError(f"more than the {limit} bytes that the answer can have")
    if response.length:  # read() says nothing of what is missing
        raise http.client.IncompleteRead(body, response.length)
    return body


def _parts(url: object) -> SplitResult:
    """A URL taken apart.

    Raises:
        ConfigError: it is none that can be asked.
    """
    wanted = f"expected a URL such as http://localhost:4242, not {url!r}"
    if not isinstance(url, str) or re.search(r"[^!-~]", url):
        raise ConfigError(f"{wanted}: write it in ASCII, without spaces.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ConfigError(f"{wanted}: {error}.") from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ConfigError(f"{wanted}: name http or https, a host, and a port unless it is the usual one.")
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"{wanted}: leave out user names and all that follows '?' or '#'.")
    return parts


def words(answer: Answer) -> str:
    """What a server says of an error, in one line: of plain text and of HTML alike, and where it redirects to."""
    if answer.location:
        return f"it redirects to {shortened(answer.location)}: give url the address there, as redirects are not followed"
    text = answer.body.decode("utf-8", "replace")
    return shortened(re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", text)) or "it says nothing of the cause"


def shortened(text: str) -> str:
    """A server's words in one line that is not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= WORDS else f"{line[:WORDS]}..."
