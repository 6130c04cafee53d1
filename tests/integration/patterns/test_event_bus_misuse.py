"""What a handler may do to the transaction it is given: it is the handler's failure, and harms no other event."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import asyncpg
import pytest

from marty_msf.core.errors import NotRunning, TransactionFailed
from marty_msf.patterns.choreography import Event, EventBus
from marty_msf.patterns.outbox import Inbox
from marty_msf.worker.broker.reading_client import ReadingClient
from tests.integration.patterns.test_event_bus import SEEN, bus, see, seen, send
from tests.integration.saga.sagas import told
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]


class Odd(BaseException):
    """No Exception."""


async def swallow(event: Event) -> None:
    with suppress(asyncpg.DivisionByZeroError):
        await event.connection.execute("SELECT 1 / 0")


async def be_cancelled_from_inside(_: Event) -> None:
    waiting = asyncio.create_task(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(waiting.cancel)
    await waiting


async def raise_what_is_no_exception(_: Event) -> None:
    raise Odd("not for us")


async def roll_back(event: Event) -> None:
    await event.connection.execute("ROLLBACK")


async def lose_the_connection(event: Event) -> None:
    await event.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def close_the_connection(event: Event) -> None:
    await event.connection.close()


async def be_idle_for_too_long(event: Event) -> None:
    await event.connection.execute("SET LOCAL idle_in_transaction_session_timeout = '10ms'")

    def ended() -> bool:
        try:
            return bool(event.connection.is_closed())
        except asyncpg.InterfaceError:  # the pool has taken back what is no connection any more
            return True

    await eventually(told(ended))


MISUSES: Final[dict[str, tuple[Callable[[Event], Awaitable[None]], str]]] = {
    "swallowed": (swallow, "swallowed its error"),
    "cancelled from inside": (be_cancelled_from_inside, "something that it waited for was cancelled"),
    "no exception": (raise_what_is_no_exception, "Odd: not for us"),
    "rolled back": (roll_back, "ended the transaction that it was given"),
    "connection lost": (lose_the_connection, ""),
    "connection closed": (close_the_connection, "its connection ended while it worked"),
    "idle for too long": (be_idle_for_too_long, "its connection ended while it worked"),
}


@pytest.mark.parametrize("misuse", MISUSES)
async def test_an_event_whose_handler_spoils_its_transaction_is_parked_and_all_others_go_on(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    misuse: str,
) -> None:
    """Naive: it counts as an outage, so that the whole loop begins anew, again and again; or the event is lost."""
    await conn.execute(SEEN)
    topic = topic_factory("misused", partitions=1)
    spoil, says = MISUSES[misuse]
    mended = False

    async def handle(event: Event) -> None:
        await see(event)
        if event.data["n"] < 3 and not mended:
            await spoil(event)

    async with bus(postgres_url, kafka_bootstrap, topic, handle) as service:
        send(kafka_bootstrap, topic, ("e1", "a", {"n": 1}), ("e2", "b", {"n": 2}), ("e3", "c", {"n": 3}))
        await eventually(lambda: seen(conn), lambda found: found == {"c": [3]})
        parked = await service.parked()
        assert [(it.event_id, it.attempts) for it in parked] == [("e1", 2), ("e2", 2)]
        assert all(says in it.error for it in parked), parked

        # Redriven in vain: each row says so, and neither keeps the other from its turn.
        assert await service.redrive() == 0
        assert [it.attempts for it in await service.parked()] == [3, 3]
        mended = True
        assert await service.redrive() == 2
        assert await seen(conn) == {"a": [1], "b": [2], "c": [3]}
        assert await service.health_check() == {"status": "healthy", "problems": [], "parked_events": 0}


async def test_a_bus_that_has_not_heard_of_kafka_yet_is_not_healthy(postgres_url: str) -> None:
    """Naive: nothing is wrong, and nothing is read, until a silent server has been waited for."""

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    released = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with bus(postgres_url, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "orders", see) as service:
        health = await service.health_check()
        assert (health["status"], health["problems"]) == ("unhealthy", ["the event bus does not read Kafka yet"])
        released.set()
    server.close()


async def test_a_handler_cannot_stop_the_bus_that_waits_for_it(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: each waits for the other, for ever, and so does every later stop."""
    topic = topic_factory("stopping", partitions=1)
    refused: list[str] = []
    stopping: list[asyncio.Task[None]] = []

    async def stop(_: Event) -> None:
        try:
            await service.stop()
        except NotRunning as error:
            refused.append(str(error))
        stopping.append(asyncio.create_task(service.stop()))

    async with bus(postgres_url, kafka_bootstrap, topic, stop) as service:
        send(kafka_bootstrap, topic, ("e1", "a", {"n": 1}))
        await eventually(told(lambda: bool(stopping)))
        async with asyncio.timeout(30):
            await stopping[0]
    assert "which it would wait for" in refused[0]


async def test_what_ends_all_handling_is_told(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: nothing is handled any more, and the bus is healthy."""
    topic = topic_factory("ending", partitions=1)

    async def end(_: Event) -> None:
        raise GeneratorExit

    service = EventBus("service", topic, bootstrap_servers=kafka_bootstrap, database_url=postgres_url)
    service.subscribe("counted", end)
    await service.start()
    send(kafka_bootstrap, topic, ("e1", "a", {"n": 1}))
    health = await eventually(service.health_check, lambda found: "a handler ended" in str(found["problems"]))
    assert health["status"] == "unhealthy"
    assert health["problems"][0].startswith("a handler ended all handling by GeneratorExit")
    with pytest.raises(GeneratorExit):
        await service.stop()


async def test_an_inbox_whose_block_ends_its_transaction_says_so(postgres_url: str, conn: asyncpg.Connection) -> None:
    """Naive: the entry is gone with the effects, Kafka's position moves on, and the event is lost."""
    inbox = Inbox("inventory")

    async def handle(statement: str) -> bool:
        async with inbox.once(conn, {"ce_id": "e1", "ce_source": "/test"}) as first:
            await conn.execute(statement)
        return first

    with pytest.raises(TransactionFailed, match="ended the transaction"):
        await handle("ROLLBACK")
    assert await handle("SELECT 1")


async def test_a_reader_leaves_no_task_behind_where_its_end_is_told_as_a_cancellation(
    kafka_bootstrap: str, topic_factory: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive: the connections are closed, and the fetcher goes on until the garbage collector finds it."""
    topic = topic_factory("reading", partitions=1)

    async def cancelled() -> None:
        raise asyncio.CancelledError

    client = ReadingClient(topic, bootstrap_servers=kafka_bootstrap)
    await client.start()
    monkeypatch.setattr(client._coordinator, "close", cancelled)
    await client.stop()
    assert client._fetcher._fetch_task.done()
