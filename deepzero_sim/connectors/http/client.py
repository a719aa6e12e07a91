"""HTTP as connectors need it: kept connections, one deadline for a whole call, answers of a limited size, errors in words.

Evaluations are idempotent: a second request does no harm, but takes the time twice. So a request is sent a second time in one
case only: a kept connection turns out to have been closed by the server in the meantime, before any of an answer came. The
failure policy decides about everything else. Proxies that the environment names are not used; redirects are not followed.

It stands on `http.client`, as no library of HTTP limits the time of a whole call: their timeouts begin anew with every byte.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from deepzero_sim.common.requirements import is_positive, require
from deepzero_sim.connectors.http.deadline_socket import Connection
from deepzero_sim.errors import ConfigError, ConnectionLostError, SolverError, SolverTimeoutError, UnreadableOutputError

#: Most bytes of an answer that holds no state: sizes, errors.
SHORT_ANSWER = 2**16

#: First status of HTTP for redirects.
REDIRECTS = 300

#: Most letters of a server's own words that are passed on.
LONGEST_QUOTE = 300


class Answer(NamedTuple):
    """A server's answer.

    Args:
        status: Status of HTTP.
        body: Content; of an answer that is no success at most the first :data:`SHORT_ANSWER` bytes.
        location: Address that a redirect leads to.
    """

    status: int
    body: bytes
    location: str = ""


class HTTPClient:
    """Client of one server.

    Args:
        url: Address of the server, `http://host:port`, or https, with a path if it has one.
        timeout: Seconds that one call may take in all: to connect, to send, to wait, to receive.
    """

    def __init__(self, url: str, timeout: float) -> None:
        require(is_positive(timeout), "timeout must be a positive number of seconds", timeout)
        parts = _parse_url(url)
        self.url = url.rstrip("/")
        self.timeout = float(timeout)
        self._address = (str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80), parts.scheme == "https")
        self._path = parts.path.rstrip("/")
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, limit: int = SHORT_ANSWER
    ) -> Answer:
        """Send a request, and wait for the whole answer, of whatever status.

        Args:
            method: GET or POST.
            path: Path behind the URL, with its slash.
            body: JSON.
            headers: Headers besides the content type.
            limit: Most bytes of a successful answer.

        Raises:
            SolverTimeoutError, ConnectionLostError, UnreadableOutputError: There is none.
        """
        deadline = time.monotonic() + self.timeout
        connection = self._connection()
        self._busy.add(connection)
        try:
            connection.set_deadline(deadline)
            answer = _exchange(connection, method, self._path + path, body, headers or {}, limit)
        except BaseException as error:
            connection.close()
            failure = self._translate(error, path)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._busy.discard(connection)
        if connection.sock is not None:
            self._idle.append(connection)
        return answer

    def _connection(self) -> Connection:
        """Return an idle connection of this process, the last used first, or a new one."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if connection.owner == os.getpid() and connection.is_quiet:
                return connection
            connection.close()
        return Connection(*self._address)

    def stop(self) -> None:
        """End all calls that are under way, with a ConnectionLostError, and close idle connections."""
        for connection in list(self._busy):
            connection.stop()
        with suppress(IndexError):  # another thread was quicker
            while True:
                self._idle.pop().close()

    def answer_error(self, path: str, problem: str, kind: type[SolverError] = UnreadableOutputError) -> SolverError:
        """Make the error for an answer: `the server at URL answered PATH PROBLEM.`"""
        return kind(f"the server at {self.url} answered {path} {problem}.")

    def _translate(self, error: BaseException, path: str) -> SolverError | None:
        """Make an error of ours of Python's, or None for what is no failure of the server."""
        call = f"asking {self.url}{path}"
        match error:
            case _TooLargeError():
                return self.answer_error(path, f"with {error}: it is not what was asked for")
            case TimeoutError():
                remedy = "raise timeout if it needs more, or look at the server"
                return SolverTimeoutError(f"{call} took longer than {self.timeout:g} seconds: {remedy}.")
            case ConnectionRefusedError():
                return ConnectionLostError(f"{call} failed ({error}): start the server, or check the URL's host and port.")
            case http.client.IncompleteRead() | OSError():  # RemoteDisconnected, too
                why = str(error) or type(error).__name__
                return ConnectionLostError(f"{call} failed, the connection was lost ({why}): is the server still running?")
            case http.client.HTTPException():
                return UnreadableOutputError(f"{call} gave no answer in HTTP ({one_line(str(error))}): check the URL's port.")
        return None

    def __reduce__(self) -> tuple[type[HTTPClient], tuple[str, float]]:
        return HTTPClient, (self.url, self.timeout)  # connections stay in their process


class _TooLargeError(Exception):
    """An answer is larger than any that was asked for."""


def _exchange(connection: Connection, method: str, path: str, body: bytes, headers: Mapping[str, str], limit: int) -> Answer:
    """Send one request and read its answer, over a new connection if the kept one was closed in the meantime."""
    try:
        response = _send(connection, method, path, body, headers)
    except (ConnectionResetError, BrokenPipeError):  # RemoteDisconnected, too
        if not connection.is_used or connection.is_stopped:
            raise
        connection.close()
        connection.is_used = False
        response = _send(connection, method, path, body, headers)
    with response:
        location = response.getheader("Location", "") if REDIRECTS <= response.status < http.client.BAD_REQUEST else ""
        answer = Answer(response.status, _read(response, limit), location)
        if response.will_close or response.status != http.client.OK:
            connection.close()  # of an error, something may be left to read
    connection.is_used = True
    return answer


def _send(connection: Connection, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    connection.request(method, path, body or None, {"Content-Type": "application/json", **headers})
    return connection.getresponse()


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    if response.status != http.client.OK:
        return response.read(SHORT_ANSWER)
    if response.length is not None and response.length > limit:
        raise _TooLargeError(f"{response.length} bytes, more than the {limit} that the answer can have")
    body = response.read(limit + 1)
    if len(body) > limit:
        raise _TooLargeError(f"more than the {limit} bytes that the answer can have")
    if response.length:  # read() does not report what is missing
        raise http.client.IncompleteRead(body, response.length)
    return body


def _parse_url(url: str) -> SplitResult:
    """Split a URL into its parts; refuse one that cannot be asked."""
    expected = "expected a URL such as http://localhost:4242"
    is_ascii = isinstance(url, str) and not re.search(r"[^!-~]", url)
    require(is_ascii, expected, url, "write it in ASCII, without spaces")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ConfigError(f"{expected}, not {url!r}: {error}.") from error
    is_whole = parts.scheme in ("http", "https") and bool(host) and port != 0
    require(is_whole, expected, url, "name http or https, a host, and a port unless it is the usual one")
    is_plain = not parts.query and not parts.fragment and parts.username is None
    require(is_plain, expected, url, "leave out user names and all that follows '?' or '#'")
    return parts


def error_text(answer: Answer) -> str:
    """Return what a server says of an error, in one line, of plain text and of HTML alike, or where it redirects to."""
    if answer.location:
        return f"it redirects to {one_line(answer.location)}: give url the address there, as redirects are not followed"
    text = answer.body.decode("utf-8", "replace")
    return one_line(re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", text)) or "it says nothing of the cause"


def one_line(text: str) -> str:
    """Shorten a server's words to one line of at most :data:`LONGEST_QUOTE` letters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}..."
