"""The requests that a server answers: those of programs that name it, not of web pages that a browser runs for somebody else.

A page of any site can make a browser send requests to this machine, and by a name that it lets point here it can read the
answers, too (DNS rebinding). Browsers tell: by the header `Origin`, and by that name in `Host`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

#: Name or address, and a port.
HOST = re.compile(r"(?:\[(?P<bracketed>[0-9a-f:.]+)\]|(?P<name>[^\s:@/?#\[\]]+))(?::\d+)?")

#: Status, type of the error, and words.
Refusal = tuple[HTTPStatus, str, str]


class Access:
    """Rules for who may ask a server, by the name that it was told to listen on, and the addresses that it listens on."""

    def __init__(self, host: str, addresses: list[str]) -> None:
        self._host = host
        self._is_local = all(ipaddress.ip_address(address).is_loopback for address in addresses)
        self._names = {"localhost", host.lower()} | (set() if self._is_local else _own_names())

    def refusal(self, request: web.Request) -> Refusal | None:
        """Return the reason to refuse a request, or None."""
        if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
            return HTTPStatus.FORBIDDEN, "Forbidden", "requests of web pages are refused: ask by a program."
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            named = ", ".join(hosts)[:100] or "none"
            words = f"the header Host must name this server, which listens on {self._host}, not {named!r}: use its address."
            return HTTPStatus.FORBIDDEN, "Forbidden", words
        return None

    def _is_ours(self, host: str) -> bool:
        """Tell if a client that names this host can have meant us. Ports may differ: tunnels have one of their own."""
        match = HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = (match["bracketed"] or match["name"]).removesuffix(".")
        return name in self._names or self._is_address(name)

    def _is_address(self, name: str) -> bool:
        """Tell an address, which nobody can let point anywhere else, from a name; a local server has local addresses only."""
        try:
            address = ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return address.is_loopback or not self._is_local


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], socket.getfqdn().lower()}


def type_refusal(request: web.Request) -> Refusal | None:
    """Return the reason to refuse the type of a request's body, or None.

    The official client for Julia sends no type. A page whose requests have none still sends its origin.
    """
    kind = request.headers.get("Content-Type")
    if kind is None or request.content_type == "application/json":
        return None
    words = f"the request must be JSON, and its Content-Type application/json, not {kind[:100]!r}."
    return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "InvalidInput", words
