"""The HTTP caller against a server that answers whatever the test wants, byte by byte."""

import asyncio
import gzip
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from marty_msf.core.saga.events import Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES
from marty_msf.core.trace import of_saga
from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.board import Board
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.calling.http_caller import HttpCaller
from marty_msf.worker.saga.calling.http_client import HttpClient, session
from marty_msf.worker.saga.calling.reachability import FORGOTTEN_SECONDS, TOLD_FROM, Reachability
from marty_msf.worker.saga.calling.secret_files import SecretFiles
from tests.support.processes import free_port
from tests.unit.core.saga.definitions import definition

NOWHERE: Final = Path("/nowhere")


class Server:
    """Reads one request per connection, then writes `answer`, and keeps or closes the connection."""

    def __init__(self, answer: bytes, *, close: bool = True) -> None:
        self._answer = answer
        self._close = close
        self.requests: list[bytes] = []
        self.port = 0
        self.connections: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        self.requests.append(head + await reader.readexactly(length))
        writer.write(self._answer)
        if not self._close:
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def serving(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
        await asyncio.gather(*server.connections)


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def request(
    service: str, *, seconds: float = 2, http: dict[str, Any] | None = None, context: dict[str, Any] | None = None
) -> Request:
    call = {"call": {"http": http}} if http else {}
    step = definition({"name": "charge", "data": {"currency": "EUR"}, **call}).steps[0]
    body = b'{"saga_id":"s"}'
    return Request(service, "charge", False, "s:charge:do:1", body, seconds, step, context or {}, "s")


def caller_of(client: HttpClient, board: Board | None = None, secrets: Path = NOWHERE) -> HttpCaller:
    return HttpCaller(client, Reachability(board or Board(), time.time), SecretFiles(secrets))


async def call(port: int, seconds: float = 2) -> object:
    async with session() as client:
        return await caller_of(client).call(request(f"127.0.0.1:{port}", seconds=seconds))


async def test_the_request_is_the_call_contract() -> None:
    async with serving(Server(http("200 OK", b'{"payment":"p1"}'))) as server:
        assert await call(server.port) == Succeeded({"payment": "p1"})

    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().splitlines()
    assert lines[0] == "POST /charge HTTP/1.1"
    assert {"Idempotency-Key: s:charge:do:1", "Content-Type: application/json"} <= set(lines)
    assert json.loads(body) == {"saga_id": "s"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http("402 Payment Required", b"declined"), Rejected),
        (http("503 Service Unavailable"), Failed),
        (http("302 Found", b"", "Location: http://169.254.169.254/latest"), Misconfigured),
        (http("404 Not Found"), Misconfigured),
        (http("200 OK", gzip.compress(b"{}" * 10_000), "Content-Encoding: gzip"), Unusable),
        (http("200 OK", b"x" * (ANSWER_LIMIT_BYTES + 1)), Unusable),
        (http("500 Oops", b"x" * (ANSWER_LIMIT_BYTES + 1)), Failed),
        (http("200 OK", b"<html>"), Succeeded),
        (http("200 OK", b"", "Set-Cookie: a=b"), Succeeded),
    ],
)
async def test_answers_are_taken_for_what_they_are(answer: bytes, kind: type[object]) -> None:
    async with serving(Server(answer)) as server:
        assert isinstance(await call(server.port), kind)
    assert len(server.requests) == 1, "a redirect is never followed, nothing is repeated behind our back"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff\xfe nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
    ],
)
async def test_a_broken_answer_leaves_the_outcome_unknown(answer: bytes) -> None:
    async with serving(Server(answer)) as server:
        outcome = await call(server.port)

    assert isinstance(outcome, Failed)
    assert outcome.unknown


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
async def test_a_silent_service_is_given_up_after_the_time_out(answer: bytes) -> None:
    async with serving(Server(answer, close=False)) as server:
        outcome = await call(server.port, seconds=0.2)

    assert isinstance(outcome, Failed)
    assert outcome.unknown
    assert "no answer from http://127.0.0.1" in outcome.error


async def test_a_refused_connection_had_no_effect_and_is_told_when_it_lasts() -> None:
    board, port = Board(), free_port()
    now = [1000.0]
    reachability = Reachability(board, lambda: now[0])
    async with session() as client:
        caller = HttpCaller(client, reachability, SecretFiles(NOWHERE))
        for _ in range(TOLD_FROM):
            assert board.current() == []
            outcome = await caller.call(request(f"127.0.0.1:{port}", seconds=1))
            assert isinstance(outcome, Failed)
            assert not outcome.unknown

    problem = board.current()[0]
    assert (problem.reason, problem.blocking) == (ProblemReason.STEP_SERVICE_UNREACHABLE, False)
    assert problem.message.startswith(f"3 of 3 calls to http://127.0.0.1:{port}/charge refused since 00:16:40 UTC")
    assert problem.message.endswith("instances wait, none is lost")

    reachability.answered(f"http://127.0.0.1:{port}/charge")
    assert board.current() == []


def test_an_unreachable_service_that_nobody_calls_any_more_is_forgotten() -> None:
    board = Board()
    now = [1000.0]
    reachability = Reachability(board, lambda: now[0])
    for _ in range(TOLD_FROM):
        reachability.refused("http://a/b", "refused")
    assert board.current()
    now[0] += FORGOTTEN_SECONDS + 1
    reachability.look()
    assert board.current() == []


async def test_a_name_that_does_not_resolve_had_no_effect() -> None:
    async with session() as client:
        outcome = await caller_of(client).call(request("no-such-host.invalid", seconds=5))

    assert isinstance(outcome, Failed)
    assert not outcome.unknown


async def test_a_call_of_another_form_is_made_as_it_says(tmp_path: Path) -> None:
    secret = tmp_path / "pay" / "token"
    secret.parent.mkdir()
    secret.write_text("Bearer one\n")
    async with serving(Server(http("200 OK"))) as server, session() as client:
        form = {
            "url": f"http://127.0.0.1:{server.port}/orders/{{order.id}}?currency={{currency}}",
            "method": "PUT",
            "headers": {"X-Shop": "7"},
            "headersFrom": [{"name": "Authorization", "secretRef": {"name": "pay", "key": "token"}}],
        }
        it = request("unused.invalid", http=form, context={"order": {"id": "a/b ä"}})
        assert await caller_of(client, secrets=tmp_path).call(it) == Succeeded({})

    lines = server.requests[0].decode().split("\r\n")
    assert lines[0] == "PUT /orders/a%2Fb%20%C3%A4?currency=EUR HTTP/1.1"
    assert {"X-Shop: 7", "Authorization: Bearer one", f"traceparent: {of_saga('s')}"} <= set(lines)


async def test_a_url_with_a_name_that_is_nowhere_is_a_misconfiguration() -> None:
    async with session() as client:
        outcome = await caller_of(client).call(request("unused.invalid", http={"url": "http://127.0.0.1:1/{order_id}"}))

    assert isinstance(outcome, Misconfigured)
    assert "{order_id}" in outcome.error


async def test_without_its_secret_the_call_waits_for_it() -> None:
    form = {"headersFrom": [{"name": "Authorization", "secretRef": {"name": "pay", "key": "token"}}]}
    async with serving(Server(http("200 OK"))) as server, session() as client:
        outcome = await caller_of(client).call(request(f"127.0.0.1:{server.port}", http=form))

    assert isinstance(outcome, Failed)
    assert not outcome.unknown
    assert "key 'token' of Secret 'pay' cannot be read" in outcome.error
    assert server.requests == []


async def test_only_the_named_authority_is_trusted(tmp_path: Path) -> None:
    certificate = tmp_path / "pay-ca" / "ca.crt"
    certificate.parent.mkdir()
    key = tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    name = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *name], check=True, capture_output=True)  # noqa: ASYNC221  # before anything waits
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with serving(Server(http("200 OK")), tls) as server, session() as client:
        url = {"url": f"https://localhost:{server.port}/charge"}
        caller = caller_of(client, secrets=tmp_path)
        trusting = url | {"tls": {"caSecretRef": {"name": "pay-ca"}}}
        assert await caller.call(request("unused.invalid", http=trusting)) == Succeeded({})

        refused = await caller.call(request("unused.invalid", http=url))
        assert isinstance(refused, Failed)
        assert not refused.unknown
        assert "the certificate is not trusted" in refused.error
