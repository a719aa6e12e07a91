"""One request, one deadline: whatever a server does, it is said in words, and nothing hangs."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from http_servers import RawServer, Reply, answer_with, cut_after, free_port, hang, http, raw_server, trickle

from deepzero_sim.connectors.http.client import SHORT_ANSWER, Answer, HTTPClient, error_text
from deepzero_sim.errors import ConfigError, ConnectionLostError, SolverError, SolverTimeoutError, UnreadableOutputError


def ask(server: RawServer, timeout: float = 5.0) -> Answer:
    return HTTPClient(server.url, timeout).ask("POST", "/Evaluate", b"{}")


def test_an_answer_is_status_and_body() -> None:
    with raw_server(answer_with(http(b"[1]"))) as server:
        assert ask(server) == Answer(200, b"[1]")
    assert server.requests == [("/Evaluate", b"{}")]


def test_a_path_in_front_is_kept() -> None:
    with raw_server(answer_with(http(b""))) as server:
        HTTPClient(f"{server.url}/solvers/one/", 5).ask("GET", "/Info")
    assert server.requests == [("/solvers/one/Info", b"")]


def test_an_answer_in_chunks_is_put_together() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n"
    with raw_server(answer_with(chunks)) as server:
        assert ask(server).body == b"[1,2]"


def test_connections_are_kept() -> None:
    with raw_server(answer_with(http(b"[]"))) as server:
        client = HTTPClient(server.url, 5)
        for _ in range(5):
            client.ask("GET", "/Info")
        assert server.connections == 1


def test_a_server_that_wants_no_connection_kept_is_obeyed() -> None:
    with raw_server(cut_after(http(b"[]", headers="Connection: close\r\n"))) as server:
        client = HTTPClient(server.url, 5)
        assert [client.ask("GET", "/Info").status for _ in range(3)] == [200] * 3
        assert server.connections == 3


def test_a_kept_connection_that_was_closed_is_opened_again_without_a_word() -> None:
    with raw_server(answer_with(http(b"[]"))) as server:
        client = HTTPClient(server.url, 5)
        client.ask("GET", "/Info")
        server.cut()
        assert client.ask("GET", "/Info").status == 200
        assert server.connections == 2


def test_more_of_an_answer_than_it_said_is_not_taken_for_the_next_one() -> None:
    with raw_server(answer_with(http(b"[1]") + b" " * 20_000 + http(b"[2]"))) as server:
        client = HTTPClient(server.url, 5)
        assert [client.ask("GET", "/Info").body for _ in range(2)] == [b"[1]"] * 2
        assert server.connections == 2


def test_a_server_may_be_started_anew_between_calls() -> None:
    with raw_server(answer_with(http(b"[1]"))) as server:
        client = HTTPClient(server.url, 5)
        client.ask("GET", "/Info")
    with pytest.raises(ConnectionLostError, match="start the server"):
        client.ask("GET", "/Info")
    with raw_server(answer_with(http(b"[2]")), server.port):
        assert client.ask("GET", "/Info").body == b"[2]"


def test_a_first_request_that_is_cut_is_not_sent_again() -> None:
    with raw_server(cut_after(b"")) as server, pytest.raises(ConnectionLostError):
        ask(server)
    assert server.count("/Evaluate") == 1


def test_a_request_goes_out_twice_at_most() -> None:
    """A server that dies of a request is not asked again and again."""
    replies = [answer_with(http(b"[]")), cut_after(b""), cut_after(b""), cut_after(b"")]

    def reply(*arguments: Any) -> None:
        replies.pop(0)(*arguments)

    with raw_server(reply) as server:
        client = HTTPClient(server.url, 5)
        client.ask("GET", "/Info")
        with pytest.raises(ConnectionLostError):
            client.ask("GET", "/Info")
        assert len(server.requests) == 3


HALF = http(b"[1, 2", length=100)
HALF_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n[1, 2"
HEAD_WITHOUT_END = b"HTTP/1.1 200 OK\r\nX-A: "

FAULTS: dict[str, tuple[Reply, type[SolverError], str]] = {
    "cut before the answer": (cut_after(b""), ConnectionLostError, "the connection was lost"),
    "cut in the middle": (cut_after(HALF), ConnectionLostError, "the connection was lost"),
    "cut in a chunk": (cut_after(HALF_CHUNK), ConnectionLostError, "the connection was lost"),
    "hangs": (hang, SolverTimeoutError, "longer than 0.3 seconds"),
    "hangs in the middle": (answer_with(HALF), SolverTimeoutError, "longer than 0.3 seconds"),
    "trickles its body": (trickle(http(b"", length=9999)), SolverTimeoutError, "longer than 0.3 seconds"),
    "trickles its head": (trickle(HEAD_WITHOUT_END), SolverTimeoutError, "longer than 0.3 seconds"),
    "trickles chunks": (trickle(HALF_CHUNK[:-4].replace(b"50", b"5000")), SolverTimeoutError, "longer than 0.3 seconds"),
    "speaks something else": (cut_after(b"220 mail.example.org ESMTP\r\n"), UnreadableOutputError, "no answer in HTTP"),
    "announces too much": (answer_with(http(b"", length=10**12)), UnreadableOutputError, "1000000000000 bytes, more than"),
    "sends too much": (
        cut_after(b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * (SHORT_ANSWER + 9)),
        UnreadableOutputError,
        "more than the 65536",
    ),
    "sends too many chunks": (
        answer_with(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"1" * 0x4000 + b"\r\n"),
        SolverTimeoutError,
        "longer than",
    ),
    "sends too large a chunk": (
        answer_with(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n" + b"1" * 0x40000 + b"\r\n"),
        UnreadableOutputError,
        "more than the 65536",
    ),
    "sends a head without end": (
        answer_with(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500),
        UnreadableOutputError,
        "no answer in HTTP",
    ),
    "sends a wrong length": (
        answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n[]"),
        SolverTimeoutError,
        "longer than",
    ),
    "sends a wrong chunk": (
        cut_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]"),
        ConnectionLostError,
        "the connection was lost",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_apart(name: str) -> None:
    reply, error, message = FAULTS[name]
    started = time.monotonic()
    with raw_server(reply) as server, pytest.raises(error, match=message):
        ask(server, 0.3)
    assert time.monotonic() - started < 1.5


def test_nobody_there_is_said() -> None:
    with pytest.raises(ConnectionLostError, match="start the server, or check the URL"):
        HTTPClient(f"http://127.0.0.1:{free_port()}", 1).ask("GET", "/Info")


def test_no_such_host_is_said() -> None:
    with pytest.raises(ConnectionLostError, match=r"no-such-host\.invalid"):
        HTTPClient("http://no-such-host.invalid:1", 5).ask("GET", "/Info")


def test_after_a_fault_the_next_call_is_a_new_one() -> None:
    """What is left of an answer that came too late is never taken for the next one."""
    late = threading.Event()

    def reply(connection: Any, path: str, body: bytes) -> None:
        if path == "/slow":
            late.wait(5)
        connection.sendall(http(path.encode()))

    with raw_server(reply) as server:
        client = HTTPClient(server.url, 0.2)
        with pytest.raises(SolverTimeoutError):
            client.ask("GET", "/slow")
        late.set()
        assert client.ask("GET", "/fast").body == b"/fast"


def test_redirects_are_not_followed() -> None:
    with raw_server(answer_with(http(b"", "302 Found", "Location: /elsewhere\r\n"))) as server:
        assert ask(server).status == 302
        assert server.requests == [("/Evaluate", b"{}")]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(answer_with(http(b"proxy"))) as proxy, raw_server(answer_with(http(b"server"))) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert ask(server).body == b"server"
        assert proxy.connections == 0


def test_calls_that_wait_are_stopped() -> None:
    with raw_server(hang) as server:
        client, errors = HTTPClient(server.url, 60), []

        def call() -> None:
            with pytest.raises(ConnectionLostError) as error:
                client.ask("GET", "/Info")
            errors.append(error.value)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(server.requests) < 3:
            time.sleep(0.01)
        client.stop()
        for thread in threads:
            thread.join(5)
        assert len(errors) == 3 and len(server.requests) == 3


def test_threads_have_connections_of_their_own() -> None:
    def reply(connection: Any, path: str, body: bytes) -> None:
        time.sleep(0.005)
        connection.sendall(http(body))

    with raw_server(reply) as server:
        client, wrong = HTTPClient(server.url, 5), []

        def call(number: int) -> None:
            for i in range(20):
                body = f"{number} {i}".encode()
                if client.ask("POST", "/", body).body != body:
                    wrong.append(body)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and server.connections <= 8


def test_a_copy_in_another_process_has_connections_of_its_own() -> None:
    with raw_server(answer_with(http(b"[]"))) as server:
        client = HTTPClient(server.url, 5)
        client.ask("GET", "/Info")
        copy = cloudpickle.loads(cloudpickle.dumps(client))
        copy.ask("GET", "/Info")
        client.ask("GET", "/Info")
        assert server.connections == 2


@pytest.mark.parametrize(
    "url",
    [
        "localhost:4242",
        "ftp://localhost",
        "http://",
        "http://:80",
        "http://a:port",
        "http://a:99999",
        "http://a:0",
        "http://a..b",
        "http://a b",
        "http://a\n",
        "http://ä.de",
        "http://me:pw@a",
        "http://a?x=1",
        "http://a#x",
        "http://[::1",
        "",
        None,
        3,
    ],
)
def test_what_is_no_url_is_said_at_once(url: Any) -> None:
    with pytest.raises(ConfigError, match="expected a URL such as"):
        HTTPClient(url, 1)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", None])
def test_what_is_no_timeout_is_said_at_once(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout must be a positive number"):
        HTTPClient("http://localhost", timeout)


def test_errors_are_read_as_one_line() -> None:
    page = b"<html><style>p {}</style><body><h1>Oops</h1>\n<p>it&nbsp;broke\x1b[31m</p></body></html>"
    assert error_text(Answer(500, page)) == "Oops it&nbsp;broke [31m"
    assert error_text(Answer(500, b" \n")) == "it says nothing of the cause"
    assert len(error_text(Answer(500, b"x" * 9999))) < 400


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made by openssl")
def test_https_is_spoken_and_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with raw_server(answer_with(http(b"[1]")), wrapped=lambda plain: context.wrap_socket(plain, server_side=True)) as server:
        url = f"https://localhost:{server.port}"
        with pytest.raises(ConnectionLostError, match="certificate"):
            HTTPClient(url, 5).ask("GET", "/Info")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        client = HTTPClient(url, 5)
        assert [client.ask("GET", "/Info").body for _ in range(3)] == [b"[1]"] * 3
        assert server.connections == 2
    encrypted = raw_server(trickle(b""), wrapped=lambda plain: context.wrap_socket(plain, server_side=True))
    with encrypted as server, pytest.raises(SolverTimeoutError):
        HTTPClient(f"https://localhost:{server.port}", 0.5).ask("GET", "/Info")
