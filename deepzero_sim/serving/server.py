"""A server of models, until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from deepzero_sim.common.types import is_integer, is_number
from deepzero_sim.connectors.http.json_values import require_json
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.serving.access import Access
from deepzero_sim.serving.application import Application
from deepzero_sim.serving.connections import Connections
from deepzero_sim.serving.model import ServedModel
from deepzero_sim.serving.protocol import Protocol

#: Seconds that requests under way have to end when the server stops.
GRACE = 5.0

#: Clients that the system keeps waiting until they are accepted.
QUEUE = 128

#: Seconds that an evaluation may be given: eleven days.
LONGEST = 1e6

#: Of aiohttp: what clients send that is no HTTP is told to them, and is no fault of the server.
_LOG = logging.getLogger(__name__)
_LOG.addFilter(lambda record: record.exc_info is None or not hasattr(record.exc_info[1], "headers"))


def say_address(address: str) -> None:
    """Print where a server listens, at once, so that whoever started it can read it."""
    sys.stdout.write(f"listening on {address}\n")
    sys.stdout.flush()


def serve(
    models: Mapping[str, ServedModel],
    host: str = "127.0.0.1",
    port: int = 4242,
    report: Callable[[str], None] = say_address,
    timeout: float = 300.0,
) -> None:
    """Offer models to all UM-Bridge clients that reach this address, until Ctrl-C or SIGTERM.

    There is no password, and nothing is encrypted: who reaches the address may ask, as often as they like; only web pages may
    not. The usual host is reached from this machine only. Models are evaluated one at a time, unless all of them may be asked
    by several threads. An evaluation whose client has left ends before its next step.

    Args:
        models: by the names that clients ask for.
        host: name or address of this machine to listen on.
        port: 0 for a free one.
        report: called with the address, once clients can connect; it is printed if nothing else is said.
        timeout: seconds that one evaluation may take.

    Raises:
        ConfigError: no models, or one cannot listen there.
        MissingExtraError: the extra "http" is not installed.
    """
    require_json()
    try:
        import aiohttp  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("a server", "aiohttp", "http") from error
    if not is_integer(port) or not 0 <= port < 2**16:
        raise ConfigError(f"port must be a whole number from 0, for a free one, to 65535, not {port!r}.")
    if not isinstance(host, str) or not host:  # asyncio takes it for all addresses of this machine
        raise ConfigError(f"host must be a name or address of this machine, not {host!r}: 0.0.0.0 is for all of them.")
    if not is_number(timeout) or not 0 < timeout <= LONGEST:
        raise ConfigError(f"timeout must be a positive number of seconds, up to {LONGEST:g}, not {timeout!r}.")
    asyncio.run(_serve(Protocol(models), host, int(port), report, float(timeout)))


async def _serve(protocol: Protocol, host: str, port: int, report: Callable[[str], None], timeout: float) -> None:
    from aiohttp import web  # noqa: PLC0415 - optional

    asyncio.get_running_loop().set_exception_handler(_say_fault)
    workers = (os.cpu_count() or 1) if protocol.thread_safe else 1
    connections = Connections(protocol.largest_request)
    with ThreadPoolExecutor(workers, thread_name_prefix="deepzero-sim-serve") as pool:
        application = Application(protocol, pool, connections, timeout)
        runner = web.AppRunner(
            application.build(), access_log=None, logger=_LOG, shutdown_timeout=GRACE, handler_cancellation=True
        )
        protocol.stop(False)
        await runner.setup()
        handler, server = runner.server, None
        assert handler is not None
        try:
            server = await _bound(lambda: connections.protocol(handler), host, port, connections.backlog)
            addresses = [listening.getsockname() for listening in server.sockets]
            application.open_to(Access(host, [address[0] for address in addresses]))
            await server.start_serving()
            _lengthen_queues(server)
            with _stopped_by_signals() as stopped:
                report(_address(*addresses[0][:2]))
                await stopped.wait()
        finally:
            if server is not None:
                server.close()
            await runner.cleanup()
            protocol.stop(True)
            pool.shutdown(wait=False, cancel_futures=True)


async def _bound(protocol: Callable[[], asyncio.Protocol], host: str, port: int, backlog: int) -> asyncio.Server:
    """A server that has its address, and does not listen yet."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(protocol, host, port, backlog=backlog, start_serving=False)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)  # asyncio repeats the address
        raise ConfigError(
            f"expected a free port to listen on, not {host}:{port} ({why}): name another --port, or 0 for any."
        ) from error


def _lengthen_queues(server: asyncio.Server) -> None:
    """Let the system keep more clients waiting than asyncio accepts at once: one that it drops comes back seconds later."""
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as same:
            same.listen(QUEUE)


def _say_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log a fault of asyncio, in a line if it is a lack of files or memory, which passes."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        _LOG.warning("clients have to wait: %s", error.strerror)
    else:
        loop.default_exception_handler(context)


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of what they do otherwise; of a second one, they do it again."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
