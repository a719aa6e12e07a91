"""A server of models, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from deepzero_sim.connectors.json_values import require_json
from deepzero_sim.errors import ConfigError, MissingExtraError
from deepzero_sim.serving.model import ServedModel
from deepzero_sim.serving.protocol import Protocol, error_answer
from deepzero_sim.types import is_whole

if TYPE_CHECKING:
    from aiohttp import web

#: Seconds that requests under way have to end when the server stops.
GRACE = 5.0


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
) -> None:
    """Offer models to all UM-Bridge clients that reach this address, until Ctrl-C or SIGTERM.

    There is no password, and nothing is encrypted: who reaches the address may ask, as often as they like. The usual host is
    reached from this machine only. Models are evaluated one at a time, unless all of them may be asked by several threads.

    Args:
        models: by the names that clients ask for.
        host: name or address of this machine to listen on.
        port: 0 for a free one.
        report: called with the address, once clients can connect; it is printed if nothing else is said.

    Raises:
        ConfigError: no models, or one cannot listen there.
        MissingExtraError: the extra "http" is not installed.
    """
    require_json()
    try:
        import aiohttp  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("a server", "aiohttp", "http") from error
    if not is_whole(port) or not 0 <= port < 2**16:
        raise ConfigError(f"port must be a whole number from 0, for a free one, to 65535, not {port!r}.")
    if not isinstance(host, str) or not host:  # asyncio takes it for all addresses of this machine
        raise ConfigError(f"host must be a name or address of this machine, not {host!r}: 0.0.0.0 is for all of them.")
    asyncio.run(_serve(Protocol(models), host, int(port), report))


async def _serve(protocol: Protocol, host: str, port: int, report: Callable[[str], None]) -> None:
    from aiohttp import web  # noqa: PLC0415 - optional

    workers = (os.cpu_count() or 1) if protocol.thread_safe else 1
    with ThreadPoolExecutor(workers, thread_name_prefix="deepzero-sim-serve") as pool:
        runner = web.AppRunner(_application(protocol, pool), access_log=None, logger=_LOG, shutdown_timeout=GRACE)
        protocol.stop(False)
        await runner.setup()
        try:
            await _listen(runner, host, port)
            with _stopped_by_signals() as stopped:
                report(_address(runner))
                await stopped.wait()
        finally:
            await runner.cleanup()
            protocol.stop(True)
            pool.shutdown(wait=False, cancel_futures=True)


def _application(protocol: Protocol, pool: ThreadPoolExecutor) -> web.Application:
    from aiohttp import web  # noqa: PLC0415 - optional

    async def info(request: web.Request) -> web.Response:
        return _response(HTTPStatus.OK, protocol.info())

    async def answer(request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            words = f"the request must have at most {protocol.largest_request} bytes: send vectors of the model's sizes."
            return _response(*error_answer("InvalidInput", words, HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        if request.path != "/Evaluate":  # all else takes no time, and is answered while a model computes
            return _response(*protocol.answer(request.path, body))
        loop = asyncio.get_running_loop()
        return _response(*await loop.run_in_executor(pool, protocol.answer, request.path, body))

    application = web.Application(client_max_size=protocol.largest_request)
    application.router.add_get("/Info", info)
    for path in protocol.handlers:
        application.router.add_post(path, answer)
    return application


def _response(status: int, body: bytes) -> web.Response:
    from aiohttp import web  # noqa: PLC0415 - optional

    return web.Response(status=status, body=body, content_type="application/json")


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    from aiohttp import web  # noqa: PLC0415 - optional

    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)  # asyncio repeats the address
        raise ConfigError(
            f"expected a free port to listen on, not {host}:{port} ({why}): name another --port, or 0 for any."
        ) from error


def _address(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
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
