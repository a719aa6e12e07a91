"""Who may ask: programs that name this server, not web pages that a browser runs for somebody else.

A page of any site can make a browser send requests to this machine, and by a name that it lets point here it can read the
answers, too (DNS rebinding). Browsers say so: by the header `Origin`, and by that name in `Host`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

#: A name or address, and a port.
HOST = re.compile(r"(?:\[(?P<bracketed>[0-9a-f:.]+)\]|(?P<name>[^\s:@/?#\[\]]+))(?::\d+)?")

#: A refusal: its status, the type of its error, and words.
Refusal = tuple[HTTPStatus, str, str]


class Access:
    """What is asked of a request before it is answered.

    Args:
        host: name or address that the server was told to listen on.
        addresses: that it listens on.
    """

    def __init__(self, host: str, addresses: list[str]) -> None:
        self._host = host
        self._local = all(ipaddress.ip_address(address).is_loopback for address in addresses)
        self._names = {"localhost", host.lower()} | (set() if self._local else _own_names())

    def refusal(self, request: web.Request) -> Refusal | None:
        """Tell why a request is refused; None if it is not."""
        if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
            return HTTPStatus.FORBIDDEN, "Forbidden", "requests of web pages are refused: ask by a program."
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            named = ", ".join(hosts)[:100] or "none"
            words = f"the header Host must name this server, which listens on {self._host}, not {named!r}: use its address."
            return HTTPStatus.FORBIDDEN, "Forbidden", words
        return None

    def _is_ours(self, host: str) -> bool:
        """Tell whether a client that names this host can have meant us. Ports may differ: tunnels have one of their own."""
        found = HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = (found["bracketed"] or found["name"]).removesuffix(".")
        return name in self._names or self._is_address(name)

    def _is_address(self, name: str) -> bool:
        """Tell whether it is an address, which nobody can let point anywhere else; of a local server, a local one."""
        try:
            address = ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return address.is_loopback or not self._local


def _own_names() -> set[str]:
    whole = socket.gethostname().lower()
    return {whole, whole.partition(".")[0], socket.getfqdn().lower()}


def type_refusal(request: web.Request) -> Refusal | None:
    """Tell why the type of a request's body is refused; None if it is not.

    The official client for Julia says none. A page whose requests say none still says its origin.
    """
    said = request.headers.get("Content-Type")
    if said is None or request.content_type == "application/json":
        return None
    words = f"the request must be JSON, and its Content-Type application/json, not {said[:100]!r}."
    return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "InvalidInput", words
