"""The client of steps over HTTP against services that answer byte by byte: when a connection is used again, and when not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES
from marty_msf.worker.saga.calling import http_client
from marty_msf.worker.saga.calling.http_client import Answer, BrokenOff, HttpClient, NotConnected, session
from marty_msf.worker.saga.calling.http_connection import Connection
from tests.support.processes import free_port
from tests.support.waiting import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Service:
    """Answers the requests of each connection in turn with `answers`, byte strings that are sent one after the other."""

    def __init__(self, *answers: Sequence[bytes], close_after: int | None = None) -> None:
        self._answers = answers
        self._close_after = close_after
        self.port = 0
        #: By connection the requests so far.
        self.requests: list[list[bytes]] = []
        self.closed = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[bytes] = []
        self.requests.append(requests)
        self._writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
                requests.append(head + await reader.readexactly(length))
                for part in self._answers[min(len(requests), len(self._answers)) - 1]:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                if len(requests) == self._close_after:
                    break
        writer.close()
        self.closed += 1

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[Service]:
    listener = await asyncio.start_server(service.handle, "127.0.0.1", 0)
    service.port = listener.sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        service.close_all()
        listener.close()


async def ask(client: HttpClient, service: Service, body: bytes = b"{}", seconds: float = 5) -> Answer:
    url = f"http://127.0.0.1:{service.port}/charge?a=%20b"
    return await client.request("POST", url, {"X-Shop": "7"}, body, seconds=seconds, trust=True)


async def test_connections_are_used_again_and_there_are_only_as_many_as_calls_at_once() -> None:
    async with serving(Service([OK])) as service, session() as client:
        for _ in range(3):
            await asyncio.gather(ask(client, service), ask(client, service))
        assert sorted(len(requests) for requests in service.requests) == [3, 3]
    await eventually(lambda: _value(service.closed), lambda closed: closed == 2)


async def test_the_request_is_what_servers_expect() -> None:
    async with serving(Service([OK])) as service, session() as client:
        assert await ask(client, service) == Answer(200, {"Content-Length": "2"}, b"{}")
        lines = service.requests[0][0].decode().split("\r\n")
        assert lines[0] == "POST /charge?a=%20b HTTP/1.1"
        assert set(lines[1:]) == {
            f"Host: 127.0.0.1:{service.port}", "X-Shop: 7", "Accept: */*", "User-Agent: marty-saga",
            "Content-Length: 2", "", "{}",
        }  # fmt: skip


async def test_headers_of_ones_own_replace_the_usual_ones() -> None:
    async with serving(Service([OK])) as service, session() as client:
        url = f"http://127.0.0.1:{service.port}"
        await client.request("GET", url, {"accept": "text/plain"}, None, seconds=5, trust=True)
        head = service.requests[0][0].decode()
        assert head.startswith("GET / HTTP/1.1\r\n")
        assert "Content-Length" not in head
        assert (head.lower().count("accept:"), "accept: text/plain\r\n" in head) == (1, True)


@pytest.mark.parametrize("text", ["a\r\nX: b", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_would_be_several_is_not_sent(text: str) -> None:
    async with serving(Service([OK])) as service, session() as client:
        with pytest.raises(ValueError, match="line break"):
            await client.request("POST", f"http://127.0.0.1:{service.port}/", {"X": text}, b"", seconds=5, trust=True)
        assert service.requests == []


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-", b"Length: 4\r\n\r\n{", b"  }"], b"{  }"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n}\r\n0\r\nX: y\r\n\r\n"], b"{}"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + OK], b"{}"),
        ([b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"], None),
    ],
)
async def test_whole_answers_leave_the_connection_usable(answer: Sequence[bytes], body: bytes | None) -> None:
    async with serving(Service(answer, [OK])) as service, session() as client:
        assert (await ask(client, service)).body == body
        assert (await ask(client, service)).body == b"{}"
        assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"], b"{}"),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"], b"{}"),
        # An answer that nobody asked for must not become that of the next call.
        ([OK + b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'], b"{}"),
        ([OK, b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'], b"{}"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", b"x" * (ANSWER_LIMIT_BYTES + 1)], None),
    ],
)
async def test_other_answers_end_the_connection(answer: Sequence[bytes], body: bytes | None) -> None:
    async with serving(Service(answer)) as service, session() as client:
        assert (await ask(client, service)).body == body
        await eventually(lambda: _value(service.closed), lambda closed: closed == 1)
        assert (await ask(client, service)).body == body
        assert len(service.requests) == 2


async def test_an_answer_may_end_with_its_connection() -> None:
    answer = [b"HTTP/1.1 200 OK\r\n\r\n{", b"}"]
    async with serving(Service(answer, close_after=1)) as service, session() as client:
        assert (await ask(client, service)).body == b"{}"
        assert (await ask(client, service)).body == b"{}"


async def test_a_connection_that_the_service_closed_is_not_used() -> None:
    async with serving(Service([OK], close_after=1)) as service, session() as client:
        for _ in range(3):
            assert (await ask(client, service)).body == b"{}"
            (kept,) = next(iter(client._free.values()))
            await eventually(partial(_open, kept), lambda is_open: not is_open)
        assert len(service.requests) == 3


async def test_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEP_ALIVE_SECONDS", 0.05)
    async with serving(Service([OK])) as service, session() as client:
        await ask(client, service)
        await eventually(lambda: _value(service.closed), lambda closed: closed == 1)


async def test_a_call_that_is_given_up_leaves_no_connection_for_the_next_one() -> None:
    async with serving(Service([b"HTTP/1.1 200 OK\r\n"])) as service, session() as client:
        with pytest.raises(TimeoutError):
            await ask(client, service, seconds=0.05)
        call = asyncio.create_task(ask(client, service))
        await eventually(lambda: _value(len(service.requests)), lambda count: count == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: _value(service.closed), lambda closed: closed == 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 9 * ANSWER_LIMIT_BYTES,
    ],
)
async def test_answers_that_nobody_can_rely_on_break_the_call_off(answer: bytes) -> None:
    async with serving(Service([answer])) as service, session() as client:
        with pytest.raises(BrokenOff):
            await ask(client, service)


async def test_without_a_listener_there_is_no_connection() -> None:
    async with session() as client:
        with pytest.raises(NotConnected):
            await client.request("POST", f"http://localhost:{free_port()}/", {}, b"", seconds=5, trust=True)


async def _open(connection: Connection) -> bool:
    return connection.open


async def _value(value: int) -> int:
    return value
