"""A server of models: an address, web requests in and answers out, until it is told to stop.

The official package `umbridge` has a server, too. That one listens on all addresses, answers web pages, writes NaN, which is no
JSON, and has no words for a solver's errors.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from deepzero_sim.common.requirements import require, require_timeout
from deepzero_sim.common.types import is_integer
from deepzero_sim.connectors.http.json_values import require_json
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.serving.access import Access, Refusal, type_refusal
from deepzero_sim.serving.connections import Connections
from deepzero_sim.serving.model import Evaluation, ServedModel
from deepzero_sim.serving.protocol import Answer, Protocol, error_answer

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Seconds that requests under way have to end when the server stops.
GRACE_SECONDS = 5.0

#: Most clients that the system lets wait until they are accepted.
QUEUE = 128

#: Log of aiohttp, without requests that are no HTTP: their clients are told, and the server is not at fault.
_LOG = logging.getLogger(__name__)
_LOG.addFilter(lambda record: record.exc_info is None or not hasattr(record.exc_info[1], "headers"))


def print_address(address: str) -> None:
    """Print where a server listens, at once, so that whoever started it can read it."""
    sys.stdout.write(f"listening on {address}\n")
    sys.stdout.flush()


def serve(
    models: Mapping[str, ServedModel],
    host: str = "127.0.0.1",
    port: int = 4242,
    report: Callable[[str], None] = print_address,
    timeout: float = 300.0,
) -> None:
    """Offer models to all UM-Bridge clients that reach this address, until Ctrl-C or SIGTERM.

    There is no password, and nothing is encrypted: who reaches the address may ask, as often as they like; only web pages may
    not. The usual host is reached from this machine only. Models are evaluated one at a time, unless all of them may be asked
    by several threads. An evaluation whose client has left ends before its next step.

    Args:
        models: Models by the names that clients ask for.
        host: Name or address of this machine to listen on.
        port: Number of the port; 0 for a free one.
        report: Function that is called with the address, once clients can connect; by default it prints it.
        timeout: Seconds that one evaluation may take.

    Raises:
        ConfigError: There are no models, or one cannot listen there.
        MissingExtraError: The extra "http" is not installed.
    """
    require_json()
    try:
        import aiohttp  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("a server", "aiohttp", "http") from error
    is_port = is_integer(port) and 0 <= port < 2**16
    require(is_port, "port must be a whole number from 0, for a free one, to 65535", port)
    is_host = isinstance(host, str) and bool(host)  # asyncio takes an empty one for all addresses of this machine
    require(is_host, "host must be a name or address of this machine", host, "0.0.0.0 is for all of them")
    asyncio.run(_serve(Protocol(models), host, int(port), report, require_timeout(timeout)))


async def _serve(protocol: Protocol, host: str, port: int, report: Callable[[str], None], timeout: float) -> None:
    from aiohttp import web  # noqa: PLC0415 - optional

    asyncio.get_running_loop().set_exception_handler(_log_fault)
    workers = (os.cpu_count() or 1) if protocol.thread_safe else 1
    connections = Connections(protocol.largest_request)
    with ThreadPoolExecutor(workers, thread_name_prefix="deepzero-sim-serve") as pool:
        application = Application(protocol, pool, connections, timeout)
        runner = web.AppRunner(
            application.build(), access_log=None, logger=_LOG, shutdown_timeout=GRACE_SECONDS, handler_cancellation=True
        )
        protocol.stop(False)
        await runner.setup()
        handler, server = runner.server, None
        assert handler is not None
        try:
            server = await _bind(lambda: connections.protocol(handler), host, port, connections.backlog)
            addresses = [listening.getsockname() for listening in server.sockets]
            application.access = Access(host, [address[0] for address in addresses])
            await server.start_serving()
            _lengthen_queues(server)
            with _stop_on_signals() as stopped:
                report(_url(*addresses[0][:2]))
                await stopped.wait()
        finally:
            if server is not None:
                server.close()
            await runner.cleanup()
            protocol.stop(True)
            pool.shutdown(wait=False, cancel_futures=True)


class Application:
    """Web application that answers the requests of a server; threads of a pool evaluate, for `timeout` seconds at most.

    Attributes:
        access: Rules for who may ask, which are known once the server has an address.
    """

    access: Access

    def __init__(self, protocol: Protocol, pool: ThreadPoolExecutor, connections: Connections, timeout: float) -> None:
        self._protocol, self._pool, self._connections, self._timeout = protocol, pool, connections, timeout

    def build(self) -> web.Application:
        """Make an application of aiohttp's."""
        from aiohttp import web  # noqa: PLC0415 - optional

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._connections.find(request.transport)
            try:
                refusal = self.access.refusal(request)
                return await handler(request) if refusal is None else _refuse(refusal)
            finally:
                if connection is not None:
                    connection.end_answer()

        application = web.Application(client_max_size=self._protocol.largest_request, middlewares=[guard])
        application.router.add_get("/Info", self._info)
        for path in self._protocol.handlers:
            application.router.add_post(path, self._answer)
        return application

    async def _info(self, request: web.Request) -> web.Response:
        return _response(HTTPStatus.OK, self._protocol.info())

    async def _answer(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if body is None:
            words = f"the request must have at most {self._protocol.largest_request} bytes: send vectors of the model's sizes."
            return _refuse((HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "InvalidInput", words))
        if (refusal := type_refusal(request)) is not None:
            return _refuse(refusal)
        if request.path != "/Evaluate":  # all else takes no time, and is answered while a model computes
            return _response(*self._protocol.answer(request.path, body))
        if (connection := self._connections.find(request.transport)) is not None:
            connection.begin_answer()
        return _response(*await self._evaluate(request.path, body))

    async def _body(self, request: web.Request) -> bytes | None:
        """Read a request's body; None if it is too large."""
        from aiohttp import web  # noqa: PLC0415 - optional

        if (request.content_length or 0) > self._protocol.largest_request:
            return None
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            return None

    async def _evaluate(self, path: str, body: bytes) -> Answer:
        """Evaluate in a thread, for as long as the client waits and the time lasts, which begins when a thread is free."""
        loop, evaluation = asyncio.get_running_loop(), Evaluation()
        begun = asyncio.Event()

        def evaluate() -> Answer:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(begun.set)
            with evaluation.current():
                return self._protocol.answer(path, body)

        answer = loop.run_in_executor(self._pool, evaluate)
        answer.add_done_callback(lambda _: begun.set())
        try:
            await begun.wait()
            done, _ = await asyncio.wait({answer}, timeout=self._timeout)
            return answer.result() if done else self._time_out(evaluation)
        finally:
            evaluation.give_up("the client has left: nobody waits for the answer.")
            answer.cancel()

    def _time_out(self, evaluation: Evaluation) -> Answer:
        words = f"the evaluation took longer than the {self._timeout:g} s that it may: ask for less, or raise the timeout."
        evaluation.give_up(words)
        return error_answer("ServerTimeout", words, HTTPStatus.SERVICE_UNAVAILABLE)


def _refuse(refusal: Refusal) -> web.Response:
    status, kind, words = refusal
    return _response(*error_answer(kind, words, status))


def _response(status: int, body: bytes) -> web.Response:
    from aiohttp import web  # noqa: PLC0415 - optional

    return web.Response(status=status, body=body, content_type="application/json")


async def _bind(protocol: Callable[[], asyncio.Protocol], host: str, port: int, backlog: int) -> asyncio.Server:
    """Make a server that has its address, and does not listen yet."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(protocol, host, port, backlog=backlog, start_serving=False)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)  # asyncio repeats the address
        expected = f"expected a free port to listen on, not {host}:{port} ({why})"
        raise ConfigError(f"{expected}: name another --port, or 0 for any.") from error


def _lengthen_queues(server: asyncio.Server) -> None:
    """Let the system keep more clients waiting than asyncio accepts at once: one that it drops comes back seconds later."""
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as same:
            same.listen(QUEUE)


def _log_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log a fault of asyncio, in a line if it is a lack of files or memory, which passes."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        _LOG.warning("clients have to wait: %s", error.strerror)
    else:
        loop.default_exception_handler(context)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stop_on_signals() -> Iterator[asyncio.Event]:
    """Let Ctrl-C and SIGTERM set an event, once; a second one does what it does otherwise."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
