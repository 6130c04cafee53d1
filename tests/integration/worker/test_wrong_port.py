"""A port that is there but is no Kafka's is told from a Kafka that is away."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from marty_msf.core.errors import BrokerRefused
from marty_msf.patterns.outbox import create_kafka_message_broker
from tests.support.postgres import admin_url

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def http() -> AsyncIterator[str]:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def postgres() -> AsyncIterator[str]:
    yield urlsplit(admin_url()).netloc.rpartition("@")[2]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


@pytest.mark.parametrize("service", [http, pytest.param(postgres, marks=pytest.mark.postgres)])
async def test_another_service_is_named_as_such(service: Callable[[], AbstractAsyncContextManager[str]]) -> None:
    async with service() as address:
        broker = create_kafka_message_broker({"bootstrap_servers": address})
        health = await broker.health_check()
        says = f"bootstrap_servers: {address} answers, but not as Kafka: is this the port of another service?"
        assert health.error is not None
        assert health.error.startswith(says)
        producer = broker.producer({})
        with pytest.raises(BrokerRefused, match="answers, but not as Kafka"):
            await producer.start()


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        (
            say_nothing,
            "it takes the connection and says nothing for 1.5 s: workers try again by themselves; does the broker hang, or is this",
        ),
        (
            close,
            "the connection is closed at Kafka's first question: workers try again by themselves; is this the port of another service?",
        ),
    ],
)
async def test_a_port_that_tells_nothing_is_told_from_one_that_nobody_listens_on(serve: Serve, says: str) -> None:
    async with serving(serve) as address:
        health = await create_kafka_message_broker({"bootstrap_servers": address}).health_check()
    assert health.error is not None
    assert health.error.startswith(f"Kafka at {address} does not answer: {says}")


async def test_a_name_without_an_address_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naive: "unable to bootstrap from" a tuple, as of a broker that is away."""

    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    health = await create_kafka_message_broker({"bootstrap_servers": "kafka.nowhere:9092"}).health_check()
    assert health.error is not None
    assert health.error.startswith("Kafka at kafka.nowhere:9092 does not answer: no address is known for that name")
