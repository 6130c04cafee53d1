"""The HTTP caller against a server that answers whatever the test wants, byte by byte."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from marty_msf.core.saga.events import Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES
from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.board import Board
from marty_msf.worker.saga.calls import Request
from marty_msf.worker.saga.http_caller import HttpCaller, session
from marty_msf.worker.saga.reachability import FORGOTTEN_SECONDS, TOLD_FROM, Reachability
from tests.support.processes import free_port


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
async def serving(server: Server) -> AsyncIterator[Server]:
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
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


async def call(port: int, seconds: float = 2, board: Board | None = None) -> object:
    async with session(4) as client:
        caller = HttpCaller(client, Reachability(board or Board(), time.time))
        return await caller.call(
            Request(f"127.0.0.1:{port}", "charge", False, "s:charge:do:1", b'{"saga_id":"s"}', seconds)
        )


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
    async with session(4) as client:
        caller = HttpCaller(client, reachability)
        request = Request(f"127.0.0.1:{port}", "charge", False, "k", b"{}", 1)
        for _ in range(TOLD_FROM):
            assert board.current() == []
            outcome = await caller.call(request)
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
    async with session(4) as client:
        caller = HttpCaller(client, Reachability(Board(), time.time))
        outcome = await caller.call(Request("no-such-host.invalid", "charge", False, "k", b"{}", 5))

    assert isinstance(outcome, Failed)
    assert not outcome.unknown
