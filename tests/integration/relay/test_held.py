"""What Kafka refuses, or what cannot go yet, holds its own aggregate only, keeps its order, and is never lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from marty_msf.core.errors import BrokerUnavailable, TopicUnavailable
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.broker.sending import Halted, Sent
from marty_msf.worker.relay.held_sender import HeldSender
from marty_msf.worker.relay.pipeline import Relay
from marty_msf.worker.relay.shared import Shared
from tests.integration.relay.setup import (
    discarding_late_ones,
    enqueue,
    held_sender,
    make_relay,
    numbers_by_key,
    pool_and_producer,
    take_lanes,
)
from tests.support.kafka import create_topic, delete_topics, read_topic, set_config
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(120)]

TOO_LARGE = "x" * 5000


@dataclass(slots=True)
class Whole:
    """A relay and its sender of held events, driven by hand as the role does it."""

    relay: Relay
    sender: HeldSender
    shared: Shared
    bootstrap: str
    limits: dict[str, int]

    async def publish(self) -> None:
        """Passes with new sessions after each refusal, until there is nothing to do now."""
        for _ in range(30):
            producer = KafkaProducer(KafkaConnection(self.bootstrap), self.limits)
            await producer.start()
            await self.relay.restart(producer)
            try:
                while not (done := await self.relay.run_once()).idle:
                    if done.spoiled:
                        break
                if done.idle:
                    break
            except BrokerUnavailable:
                continue
            finally:
                await producer.stop()
        else:
            raise AssertionError("still refused")
        while not (await self.sender.run_once()).idle:
            pass


@asynccontextmanager
async def whole(
    url: str, bootstrap: str, topic: str | None = None, batch_size: int = 500, **spec: Any
) -> AsyncIterator[Whole]:
    shared, limits = Shared("test"), dict[str, int]()
    async with (
        pool_and_producer(url, bootstrap) as (pool, producer),
        held_sender(pool, bootstrap, "me", shared, topic, **spec) as sender,
    ):
        relay = make_relay(pool, producer, "me", batch_size=batch_size, shared=shared, limits=limits, **spec)
        await take_lanes(pool, relay, "me")
        yield Whole(relay, sender, shared, bootstrap, limits)


async def held(conn: asyncpg.Connection) -> list[tuple[str | None, str]]:
    rows = await conn.fetch("SELECT aggregate_id, state FROM marty.outbox_held ORDER BY id")
    return [tuple(row) for row in rows]


async def counters(conn: asyncpg.Connection) -> tuple[int, ...]:
    row = await conn.fetchrow(
        "SELECT sum(published_total)::int, sum(held)::int, sum(dead)::int, sum(failed_total)::int FROM marty.outbox_position"
    )
    return tuple(row)


async def test_events_of_a_missing_topic_hold_their_own_aggregates_until_it_is_there(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("present")
    missing = f"{topic}-missing"
    await enqueue(conn, missing, "a", 0)
    for number in range(3):
        await enqueue(conn, topic, "a", number + 1)
        await enqueue(conn, topic, "b", number)
    async with whole(postgres_url, kafka_bootstrap) as all_of_it:
        await all_of_it.publish()
        assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"b": [0, 1, 2]}
        assert await held(conn) == [("a", "Waiting")] * 4
        assert await counters(conn) == (3, 4, 0, 0)
        assert set(all_of_it.shared.missing) == {missing}

        create_topic(kafka_bootstrap, missing)
        try:

            async def after_a_pass() -> list[tuple[str | None, str]]:
                await all_of_it.publish()
                return await held(conn)

            assert await eventually(after_a_pass, lambda rows: not rows) == []
            assert numbers_by_key(read_topic(kafka_bootstrap, missing)) == {"a": [0]}
        finally:
            delete_topics(kafka_bootstrap, [missing])
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": [1, 2, 3], "b": [0, 1, 2]}
    assert await counters(conn) == (7, 0, 0, 0)


async def test_an_event_that_is_refused_dies_after_its_attempts_and_holds_its_aggregate_only(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    letters = topic_factory("letters")
    for number in range(4):
        await enqueue(conn, small, "a", number, note=TOO_LARGE if number == 1 else "x")
        await enqueue(conn, small, "b", number)
    async with whole(postgres_url, kafka_bootstrap, letters, deadLetter={"threshold": 3}) as all_of_it:

        async def states() -> list[tuple[str | None, str]]:
            await all_of_it.publish()
            return await held(conn)

        await eventually(states, lambda rows: rows == [("a", "Dead"), ("a", "Waiting"), ("a", "Waiting")])
        await enqueue(conn, small, "a", 4)
        assert await eventually(states, lambda rows: len(rows) == 4)
        assert numbers_by_key(read_topic(kafka_bootstrap, small)) == {"a": [0], "b": [0, 1, 2, 3]}
        assert await counters(conn) == (5, 3, 1, 3)
        row = await conn.fetchrow("SELECT * FROM marty.outbox_held WHERE state = 'Dead'")
        assert (row["attempts"], row["in_order"]) == (3, True)
        assert "raise its max.message.bytes" in row["error"]
        cause = await conn.fetchrow("SELECT * FROM marty.outbox_cause")
        assert (cause["cause"], cause["dead"], cause["error_type"]) == (row["cause"], 1, "MessageSizeTooLargeError")
    (letter,) = read_topic(kafka_bootstrap, letters)
    assert letter.headers["marty-original-topic"] == small.encode()
    assert letter.headers["marty-attempts"] == b"3"
    assert letter.key == b"a"


async def test_a_dead_letter_topic_that_may_not_be_written_to_stands_in_nobodys_way(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    letters = topic_factory("letters")
    forbidden = {letters}

    class Producer(KafkaProducer):
        async def acknowledged(self, sent: Sequence[Sent]) -> None:
            if topics := {it.topic for it in sent} & forbidden:
                raise TopicUnavailable("forbidden", topics)
            await super().acknowledged(sent)

    monkeypatch.setattr("tests.integration.relay.setup.KafkaProducer", Producer)
    await enqueue(conn, small, "a", 0, note=TOO_LARGE)
    async with whole(postgres_url, kafka_bootstrap, letters, deadLetter={"threshold": 1}) as all_of_it:
        await all_of_it.publish()
        assert await held(conn) == [("a", "Dead")]
        assert set(all_of_it.shared.missing) == {letters}
        forbidden.clear()

        async def copied() -> bool:
            await all_of_it.sender.run_once()
            return bool(await conn.fetchval("SELECT copied FROM marty.outbox_held"))

        await eventually(copied)
    assert read_topic(kafka_bootstrap, letters)[-1].headers["marty-original-topic"] == small.encode()


async def test_a_copy_that_the_dead_letter_topic_refuses_is_told_of_and_tried_again_by_the_next_process(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    letters = topic_factory("letters", config={"max.message.bytes": "700"})
    await enqueue(conn, small, "a", 0, note=TOO_LARGE)
    await enqueue(conn, letters, "b", 0, note=TOO_LARGE)

    async def died() -> dict[str, tuple[bool, str | None]]:
        rows = await conn.fetch("SELECT aggregate_id, copied, copy_error FROM marty.outbox_held WHERE state = 'Dead'")
        return {row[0]: (row[1], row[2]) for row in rows}

    async with whole(postgres_url, kafka_bootstrap, letters, deadLetter={"threshold": 1}) as all_of_it:

        async def refused() -> dict[str, tuple[bool, str | None]]:
            await all_of_it.publish()
            await all_of_it.sender.run_once()
            return await died()

        found = await eventually(refused, lambda rows: len(rows) == 2 and all(error for _, error in rows.values()))
        assert not found["a"][0]
        assert "raise its max.message.bytes" in str(found["a"][1])
        assert found["b"] == (False, "it was refused by this very topic")
        # Nothing is asked of Kafka again and again.
        assert await eventually(all_of_it.sender.run_once, lambda done: done.idle)
    set_config(kafka_bootstrap, letters, {"max.message.bytes": "100000"})

    async def tried_by_the_next() -> dict[str, tuple[bool, str | None]]:
        async with whole(postgres_url, kafka_bootstrap, letters, deadLetter={"threshold": 1}) as all_of_it:
            await eventually(all_of_it.sender.run_once, lambda done: done.idle)
        return await died()

    # A broker hears of a topic's settings a moment after they were changed.
    expected = {"a": (True, None), "b": (False, "it was refused by this very topic")}
    await eventually(tried_by_the_next, lambda found: found == expected)
    assert [it.headers["marty-original-topic"] for it in read_topic(kafka_bootstrap, letters)] == [small.encode()]


class OneHeldBack:
    """A producer whose first batch waits for its turn until the second one is refused, and is not sent then."""

    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer
        self._first: asyncio.Future[Any] | None = None

    async def send(self, messages: Any) -> Sequence[Sent]:
        if self._first is None:
            self._first = asyncio.get_running_loop().create_future()
            ((topic, partition),) = messages
            return [Sent(topic, partition, 1, 0, self._first)]
        sent = await self._producer.send(messages)
        await asyncio.wait({it.acknowledged for it in sent})
        if not self._first.done():
            self._first.set_exception(Halted())
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


async def test_a_refusal_is_found_behind_a_batch_that_was_not_sent_because_of_it(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: the batch that was not sent is looked at first, which looks like an outage: all of it is sent again, refused
    again, and none of the relay's lanes moves any more."""
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    await enqueue(conn, small, "a", 0)
    await enqueue(conn, small, "poison", 0, note=TOO_LARGE)
    rules: dict[str, Any] = {"deadLetter": {"threshold": 1}}
    async with whole(postgres_url, kafka_bootstrap, batch_size=1, **rules) as all_of_it:
        producer = KafkaProducer(KafkaConnection(kafka_bootstrap), all_of_it.limits)
        await producer.start()
        await all_of_it.relay.restart(OneHeldBack(producer))
        while not (await all_of_it.relay.run_once()).spoiled:
            pass
        await producer.stop()
        assert await held(conn) == [("poison", "Dead")]
        await all_of_it.publish()
    assert numbers_by_key(read_topic(kafka_bootstrap, small)) == {"a": [0]}


async def test_without_blocking_later_events_overtake_a_dead_letter(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    for number in range(4):
        await enqueue(conn, small, "a", number, note=TOO_LARGE if number == 1 else "x")
    rules: dict[str, Any] = {"deadLetter": {"threshold": 2, "blocking": "None"}}
    async with whole(postgres_url, kafka_bootstrap, **rules) as all_of_it:

        async def states() -> list[tuple[str | None, str]]:
            await all_of_it.publish()
            return await held(conn)

        await eventually(states, lambda rows: rows == [("a", "Dead")])
        assert not all_of_it.shared.keys.holds(await conn.fetchval("SELECT marty.lane_of('a')"), "a")
    assert numbers_by_key(read_topic(kafka_bootstrap, small)) == {"a": [0, 2, 3]}


async def test_an_event_may_ask_for_its_own_number_of_attempts(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    await conn.execute(
        "SELECT marty.enqueue_event($1, 'e', to_jsonb(repeat('x', 5000)), 'a', max_delivery_attempts => 1)", small
    )
    async with whole(postgres_url, kafka_bootstrap) as all_of_it:
        await all_of_it.publish()
        assert await held(conn) == [("a", "Dead")]
    assert await conn.fetchval("SELECT attempts FROM marty.outbox_held") == 1


async def test_a_topic_with_a_smaller_limit_gets_smaller_batches(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("small", partitions=1, config={"max.message.bytes": "4000"})
    for number in range(20):
        await enqueue(conn, topic, "a", number, note="x" * 500)
    async with whole(postgres_url, kafka_bootstrap, batch_size=8) as all_of_it:
        await all_of_it.publish()
        assert all_of_it.limits[topic] < 4000
    # In order at the first time already: nothing behind a refused batch got into Kafka before it.
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": list(range(20))}
    assert await counters(conn) == (20, 0, 0, 0)


async def test_one_record_that_is_refused_does_not_take_its_batch_along(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    compacted = topic_factory("compacted", partitions=1, config={"cleanup.policy": "compact"})
    for number in range(3):
        await enqueue(conn, compacted, "a", number)
    # No aggregate, no key: a compacted topic refuses it.
    await conn.execute("SELECT marty.enqueue_event($1, 'e', '{}', NULL, max_delivery_attempts => 1)", compacted)
    for number in range(3, 6):
        await enqueue(conn, compacted, "a", number)
    async with whole(postgres_url, kafka_bootstrap) as all_of_it:

        async def states() -> list[tuple[str | None, str]]:
            await all_of_it.publish()
            return await held(conn)

        await eventually(states, lambda rows: rows == [(None, "Dead")])
    assert numbers_by_key(read_topic(kafka_bootstrap, compacted)) == {"a": list(range(6))}
    assert "compaction" in await conn.fetchval("SELECT error FROM marty.outbox_held")


async def test_a_delayed_event_waits_for_its_time_and_so_do_those_behind_it(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("delayed")
    await enqueue(conn, topic, "a", 0)
    await conn.execute(
        "SELECT marty.enqueue_event($1, 'e', '{\"n\": 1}', 'a', deliver_after => now() + interval '1 hour')", topic
    )
    await enqueue(conn, topic, "a", 2)
    await enqueue(conn, topic, "b", 0)
    async with whole(postgres_url, kafka_bootstrap) as all_of_it:
        await all_of_it.publish()
        assert await held(conn) == [("a", "Delayed"), ("a", "Waiting")]
        assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": [0], "b": [0]}

        await conn.execute("UPDATE marty.outbox_held SET deliver_after = now(), due_at = now() WHERE state = 'Delayed'")
        await all_of_it.publish()
        assert await held(conn) == []
        await enqueue(conn, topic, "a", 3)
        await all_of_it.publish()
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": [0, 1, 2, 3], "b": [0]}


async def test_what_is_held_survives_its_worker(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    for number in range(3):
        await enqueue(conn, small, "a", number, note=TOO_LARGE if number == 0 else "x")
    async with whole(postgres_url, kafka_bootstrap, deadLetter={"threshold": 1}) as first:
        await first.publish()
        assert await held(conn) == [("a", "Dead"), ("a", "Waiting"), ("a", "Waiting")]
    await conn.execute("DELETE FROM marty.lease")
    await enqueue(conn, small, "a", 3)
    async with whole(postgres_url, kafka_bootstrap, deadLetter={"threshold": 1}) as second:
        await second.publish()
        assert await held(conn) == [("a", "Dead"), *[("a", "Waiting")] * 3]
        # What a person does: a smaller document, and another try.
        await conn.execute(
            "UPDATE marty.outbox_held SET state = 'Retrying', due_at = now(), attempts = 0, payload = '{\"n\": 0}'"
            " WHERE state = 'Dead'"
        )
        await second.publish()
        assert await held(conn) == []
    assert discarding_late_ones(read_topic(kafka_bootstrap, small)) == {"a": [0, 1, 2, 3]}


async def test_an_outage_is_no_attempt(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("delayed")
    await conn.execute(
        "SELECT marty.enqueue_event($1, 'e', '{\"n\": 1}', 'a', deliver_after => now() + interval '1 hour')", topic
    )
    async with whole(postgres_url, kafka_bootstrap) as all_of_it:
        await all_of_it.publish()
        await conn.execute("UPDATE marty.outbox_held SET deliver_after = now(), due_at = now()")
        async with held_sender(all_of_it.relay._pool, "127.0.0.1:1", "me", all_of_it.shared) as cut_off:
            with pytest.raises(BrokerUnavailable):
                await asyncio.wait_for(cut_off.run_once(), 30)
        assert await conn.fetchval("SELECT attempts FROM marty.outbox_held") == 0
        await all_of_it.publish()
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": [1]}
