"""A lane that is lost in the middle of a transaction: whoever waits for it is told so at once, by an error and not by a
cancellation, which would end the task of the held events without a word."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import asyncpg
import pytest

from marty_msf.core.errors import BrokerUnavailable, LeaseLost, NotSent, TopicUnavailable
from marty_msf.core.records import tail
from marty_msf.worker.broker.fencing import fence
from marty_msf.worker.broker.sending import Message, Partition, Tuning
from marty_msf.worker.broker.transactional import TransactionalProducer
from tests.integration.relay.transactional import Parts, transactional_relay
from tests.integration.saga.sagas import told
from tests.support.kafka import delete_topics
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(120)]

LANE = 7
#: How long a transaction may take: far longer than the test.
FAR_SECONDS = 100.0


def one_event(topic: str) -> Mapping[Partition, Sequence[Message]]:
    return {(topic, 0): [tail(b"key", b"value", [])]}


async def test_a_transaction_that_waits_for_its_commit_ends_with_its_lane(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: the ended client is asked to commit, and never answers; all lanes wait until the deadline."""
    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def note() -> str:
        asked.set()
        await goes_on.wait()
        return "a note"

    async with transactional_relay(postgres_url, kafka_bootstrap, "first", acknowledge_seconds=FAR_SECONDS) as parts:
        sessions = parts.sessions
        await parts.take_lanes()
        transacting = asyncio.create_task(sessions.transact(sessions.of(LANE), one_event(topic_factory()), note, []))
        async with asyncio.timeout(20):
            await asked.wait()
        sessions.dropped([LANE])
        goes_on.set()
        with pytest.raises(LeaseLost):
            await asyncio.wait_for(transacting, 20)


async def test_a_held_event_on_its_way_is_told_by_an_error_that_its_lane_is_lost(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: a CancelledError comes out of it, and the sender of held events is never heard of again."""
    async with transactional_relay(
        postgres_url, kafka_bootstrap, "first", tuning=Tuning(linger_ms=50_000), acknowledge_seconds=FAR_SECONDS
    ) as parts:
        sessions = parts.sessions
        await parts.take_lanes()
        delivering = asyncio.create_task(sessions.deliver(LANE, one_event(topic_factory())))
        session = sessions.of(LANE)
        await eventually(told(lambda: session.producer is not None and _has_posted(session.producer)))
        sessions.dropped([LANE])
        with pytest.raises(LeaseLost):
            await asyncio.wait_for(delivering, 20)


async def test_held_events_go_on_after_an_outage_that_outlasts_their_renewal(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Naive: the lane's session stays failed, and each later delivery is refused until the lane has traffic or moves."""
    topic, used = topic_factory(), "marty_msf.worker.relay.lane_sessions.fence"

    async def away(*_: object) -> None:
        raise BrokerUnavailable("Kafka is away")

    async with transactional_relay(postgres_url, kafka_bootstrap, "first") as parts:
        await parts.take_lanes()
        monkeypatch.setattr(used, away)
        for _ in range(2):
            with pytest.raises((BrokerUnavailable, TopicUnavailable)) as told_of:
                await parts.sessions.deliver(LANE, {(f"{topic}-missing", 0): [tail(b"key", b"value", [])]})
            assert not isinstance(told_of.value, NotSent)
        monkeypatch.setattr(used, fence)
        await parts.sessions.deliver(LANE, one_event(topic))


async def test_a_transaction_whose_topic_is_deleted_fails_long_before_its_deadline(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: the client asks for the topic again and again, and all lanes wait for that transaction."""
    topic = topic_factory()
    async with transactional_relay(postgres_url, kafka_bootstrap, "first", acknowledge_seconds=FAR_SECONDS) as parts:
        await parts.take_lanes()
        await parts.sessions.deliver(LANE, one_event(topic))
        delete_topics(kafka_bootstrap, [topic])
        with pytest.raises(TopicUnavailable, match=topic):
            await asyncio.wait_for(_deliver_on(parts, topic), 40)


async def _deliver_on(parts: Parts, topic: str) -> None:
    """Kafka deletes in the background: until it is done it may take events of the topic."""
    while True:
        await parts.sessions.deliver(LANE, one_event(topic))


def _has_posted(producer: TransactionalProducer) -> bool:
    return producer._transaction is not None and bool(producer._transaction._unacknowledged)
