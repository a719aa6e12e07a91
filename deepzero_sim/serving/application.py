"""The models of a server as a web application: requests in, answers out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from deepzero_sim.serving.access import Access, Refusal, type_refusal
from deepzero_sim.serving.connections import Connections
from deepzero_sim.serving.evaluation import Evaluation
from deepzero_sim.serving.protocol import Protocol, error_answer

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: A status and a body.
Answer = tuple[int, bytes]


class Application:
    """Answers the requests of a server.

    Args:
        protocol: of the models.
        pool: whose threads evaluate them.
        connections: that requests come by.
        timeout: seconds that one evaluation may take.
    """

    def __init__(self, protocol: Protocol, pool: ThreadPoolExecutor, connections: Connections, timeout: float) -> None:
        self._protocol, self._pool, self._connections, self._timeout = protocol, pool, connections, timeout
        self._access: Access | None = None

    def open_to(self, access: Access) -> None:
        """Say who may ask, which is known once the server has an address."""
        self._access = access

    def build(self) -> web.Application:
        """Make what aiohttp takes."""
        from aiohttp import web  # noqa: PLC0415 - optional

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        application = web.Application(client_max_size=self._protocol.largest_request, middlewares=[guard])
        application.router.add_get("/Info", self._info)
        for path in self._protocol.handlers:
            application.router.add_post(path, self._answer)
        return application

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        assert self._access is not None
        connection = self._connections.of(request.transport)
        try:
            refusal = self._access.refusal(request)
            return await handler(request) if refusal is None else _refused(refusal)
        finally:
            if connection is not None:
                connection.rest()

    async def _info(self, request: web.Request) -> web.Response:
        return _response(HTTPStatus.OK, self._protocol.info())

    async def _answer(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if body is None:
            words = f"the request must have at most {self._protocol.largest_request} bytes: send vectors of the model's sizes."
            return _refused((HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "InvalidInput", words))
        if (refusal := type_refusal(request)) is not None:
            return _refused(refusal)
        if request.path != "/Evaluate":  # all else takes no time, and is answered while a model computes
            return _response(*self._protocol.answer(request.path, body))
        if (connection := self._connections.of(request.transport)) is not None:
            connection.keep()
        return _response(*await self._evaluated(request.path, body))

    async def _body(self, request: web.Request) -> bytes | None:
        """Read a request's body; None if it is too large."""
        from aiohttp import web  # noqa: PLC0415 - optional

        if (request.content_length or 0) > self._protocol.largest_request:
            return None
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            return None

    async def _evaluated(self, path: str, body: bytes) -> Answer:
        """Evaluate in a thread, for as long as the client waits and the time lasts, which begins when a thread is free."""
        loop, evaluation = asyncio.get_running_loop(), Evaluation()
        begun = asyncio.Event()

        def evaluate() -> Answer:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(begun.set)
            with evaluation.here():
                return self._protocol.answer(path, body)

        answer = loop.run_in_executor(self._pool, evaluate)
        answer.add_done_callback(lambda _: begun.set())
        try:
            await begun.wait()
            done, _ = await asyncio.wait({answer}, timeout=self._timeout)
            return answer.result() if done else self._late(evaluation)
        finally:
            evaluation.give_up("the client has left: nobody waits for the answer.")
            answer.cancel()

    def _late(self, evaluation: Evaluation) -> Answer:
        words = f"the evaluation took longer than the {self._timeout:g} s that it may: ask for less, or raise the timeout."
        evaluation.give_up(words)
        return error_answer("ServerTimeout", words, HTTPStatus.SERVICE_UNAVAILABLE)


def _refused(refusal: Refusal) -> web.Response:
    status, kind, words = refusal
    return _response(*error_answer(kind, words, status))


def _response(status: int, body: bytes) -> web.Response:
    from aiohttp import web  # noqa: PLC0415 - optional

    return web.Response(status=status, body=body, content_type="application/json")
