"""A producer's session on the real broker: in order and once, whatever becomes of a request; and it tells when it cannot be."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import (
    BrokerResponseError,
    KafkaConnectionError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    UnknownTopicOrPartitionError,
)

from marty_msf.core.errors import BrokerUnavailable, NotSent, TopicUnavailable
from marty_msf.core.records import tail
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.produce_request import Answer, ProduceRequest
from marty_msf.worker.broker.producer import ACKNOWLEDGE_SECONDS, KafkaProducer
from marty_msf.worker.broker.sending import DEFAULT_TUNING, Message, Sent, Tuning
from marty_msf.worker.broker.session import ProduceSession
from tests.support.broker import broker
from tests.support.kafka import count_topic, create_topic, delete_topics, read_topic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

PARTITIONS = 3


@asynccontextmanager
async def started(
    bootstrap: str, tuning: Tuning = DEFAULT_TUNING, acknowledge_seconds: float = ACKNOWLEDGE_SECONDS
) -> AsyncIterator[KafkaProducer]:
    producer = KafkaProducer(KafkaConnection(bootstrap), {}, tuning=tuning, acknowledge_seconds=acknowledge_seconds)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def session_of(producer: KafkaProducer) -> ProduceSession:
    session = producer._session
    assert isinstance(session, ProduceSession)
    return session


def numbered(number: int) -> Message:
    return tail(b"key", str(number).encode(), [])


async def sending(producer: KafkaProducer, topic: str) -> None:
    """For ever."""
    for number in itertools.count():
        await producer.acknowledged(await producer.send({(topic, 0): [numbered(number)]}))


async def values(bootstrap: str, topic: str) -> Sequence[list[int]]:
    """What each partition holds."""
    found: list[list[int]] = [[] for _ in range(PARTITIONS)]
    for message in await asyncio.to_thread(read_topic, bootstrap, topic):
        assert message.value is not None
        found[message.partition].append(int(message.value))
    return found


async def test_a_request_whose_answer_is_lost_goes_again_and_is_stored_once(
    kafka_bootstrap: str, topic_factory: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive: it is sent again under new numbers, and stored twice; or what was behind it overtakes it."""
    topic = topic_factory("lost", partitions=PARTITIONS)
    async with started(kafka_bootstrap) as producer:
        client = session_of(producer)._client
        send, count, fates = client.send, itertools.count(), Counter[str]()

        async def losing(node: int, request: object, **named: Any) -> object:
            if isinstance(request, ProduceRequest):
                number = next(count)
                if number % 3 == 1:
                    fates["not sent"] += 1
                    raise KafkaConnectionError("it was not sent")
                answer = await send(node, request, **named)
                if number % 3 == 0:
                    fates["stored"] += 1
                    raise KafkaConnectionError("it was stored, and nobody knows")
                return answer
            return await send(node, request, **named)

        monkeypatch.setattr(client, "send", losing)
        sent: list[Sent] = []
        for number in range(60):
            sent += await producer.send({(topic, number % PARTITIONS): [numbered(number)]})
            if number % 10 == 0:
                await asyncio.sleep(0)
        await producer.acknowledged(sent)
    assert min(fates["stored"], fates["not sent"]) > 3
    assert await values(kafka_bootstrap, topic) == [list(range(first, 60, PARTITIONS)) for first in range(PARTITIONS)]


@pytest.mark.parametrize("error", [NotEnoughReplicasError, NotLeaderForPartitionError, UnknownTopicOrPartitionError])
async def test_what_kafka_cannot_take_now_waits_and_others_go_on(
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BrokerResponseError],
) -> None:
    """Naive: the session is over at the first refusal, or waits for the one topic with all of them."""
    short, other = topic_factory("short", partitions=PARTITIONS), topic_factory("other", partitions=PARTITIONS)
    async with started(kafka_bootstrap) as producer:
        client, taken = session_of(producer)._client, asyncio.Event()
        send = client.send

        async def refusing(node: int, request: object, **named: Any) -> object:
            if not isinstance(request, ProduceRequest) or taken.is_set():
                return await send(node, request, **named)
            topics = dict(request._topics)
            refused = [(number, error.errno, -1, -1) for number, _ in topics.pop(short, ())]
            answer = await send(node, ProduceRequest(None, 1000, list(topics.items())), **named)
            return Answer([*answer.topics, (short, refused)])

        monkeypatch.setattr(client, "send", refusing)
        waiting = [
            sent
            for number in range(9)
            for sent in await producer.send({(short, number % PARTITIONS): [numbered(number)]})
        ]
        for number in range(9):
            await producer.acknowledged(await producer.send({(other, number % PARTITIONS): [numbered(number)]}))
        assert not any(sent.acknowledged.done() for sent in waiting)
        taken.set()
        await producer.acknowledged(waiting)
    for topic in (short, other):
        assert await values(kafka_bootstrap, topic) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


async def test_a_deleted_topic_is_told_long_before_the_deadline(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: it is asked for until the deadline, and with it waits all that is behind it."""
    gone = topic_factory("gone", partitions=PARTITIONS)
    async with started(kafka_bootstrap, acknowledge_seconds=100) as producer:
        await producer.acknowledged(await producer.send({(gone, 0): [numbered(0)]}))
        await asyncio.to_thread(delete_topics, kafka_bootstrap, [gone])
        with pytest.raises(TopicUnavailable, match="create it") as told:
            await asyncio.wait_for(sending(producer, gone), 30)
        assert told.value.topics == {gone}


async def test_the_end_of_a_session_tells_what_becomes_of_the_rest(
    kafka_bootstrap: str, topic_factory: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive: whoever waits for an acknowledgement waits on, or is cancelled himself."""
    topic = topic_factory("ended", partitions=1)

    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    async with started(kafka_bootstrap) as producer:
        await producer.partitions([topic])
        monkeypatch.setattr(session_of(producer)._client, "send", silent)
        first, behind = [(await producer.send({(topic, 0): [numbered(number)]}))[0] for number in range(2)]
        waiting = [asyncio.create_task(producer.acknowledged([sent])) for sent in (first, behind)]
        await asyncio.sleep(0)
        await producer.stop()
        for task in waiting:
            with pytest.raises(BrokerUnavailable):
                await task
        late = await producer.send({(topic, 0): [numbered(2)]})
        with pytest.raises(NotSent):
            await producer.acknowledged(late)
    assert await asyncio.to_thread(count_topic, kafka_bootstrap, topic) == 0


async def test_a_batch_that_is_not_full_lingers_and_a_full_one_does_not(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("lingers", partitions=PARTITIONS)
    tuning = Tuning(linger_ms=50_000, batch_bytes=2_000)
    async with started(kafka_bootstrap, tuning) as producer:
        lingers = await producer.send({(topic, 0): [numbered(0)]})
        full = await producer.send({(topic, 1): [tail(b"key", b"1" * 300, [])] * 20})
        *first, last = full
        await producer.acknowledged(first)
        assert len(first) > 1
        assert not lingers[0].acknowledged.done()
        assert not last.acknowledged.done()
    tuning = Tuning(linger_ms=20)
    async with started(kafka_bootstrap, tuning) as producer:
        await producer.acknowledged(await producer.send({(topic, 2): [numbered(2)]}))
    assert (await values(kafka_bootstrap, topic))[2] == [2]


async def test_an_outage_of_the_connection_is_not_told_when_it_ends_in_time(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("cut", partitions=PARTITIONS)
    async with started(kafka_bootstrap) as producer:
        sent: list[Sent] = []
        for number in range(90):
            sent += await producer.send({(topic, number % PARTITIONS): [numbered(number)]})
            await asyncio.sleep(0)
            if number % 20 == 10:
                for connection in list(session_of(producer)._client._conns.values()):
                    connection.close()
        await producer.acknowledged(sent)

        async def requests() -> int:
            return len(session_of(producer)._requests)

        await eventually(requests, lambda count: count == 0)
    assert await values(kafka_bootstrap, topic) == [list(range(first, 90, PARTITIONS)) for first in range(PARTITIONS)]


async def test_a_request_that_is_too_large_for_the_broker_goes_in_parts(tmp_path: Path) -> None:
    """Naive: the broker ends the connection, and the same request goes again until the deadline."""
    body = b"x" * 600_000
    async with broker(tmp_path, "socket.request.max.bytes=3000000\n") as made, started(made.bootstrap) as producer:
        create_topic(made.bootstrap, "large", 8)
        sent = await producer.send({("large", number): [tail(b"key", body, [])] * 2 for number in range(8)})
        await producer.acknowledged(sent)
        assert await asyncio.to_thread(count_topic, made.bootstrap, "large") == 16


async def test_a_topic_is_not_forgotten_for_another_one_that_is_asked_for(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: it was known from an answer about all topics, is not asked for again, and passes for deleted."""
    topic = topic_factory("known", partitions=PARTITIONS)
    async with started(kafka_bootstrap, Tuning(linger_ms=3_000), acknowledge_seconds=60) as producer:
        await producer.ask(10)
        sent = await producer.send({(topic, 0): [numbered(0)]})
        assert await producer.partitions([f"{topic}-missing"]) == {f"{topic}-missing": 0}
        await producer.acknowledged(sent)


async def test_who_gives_up_waiting_disturbs_nobody_else(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("waited", partitions=1)
    async with started(kafka_bootstrap, Tuning(linger_ms=200)) as producer:
        sent = await producer.send({(topic, 0): [numbered(0)]})
        first, second = (asyncio.create_task(producer.acknowledged(sent)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
    assert first.cancelled()


async def test_a_stop_that_is_cancelled_leaves_nothing_open(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    before = asyncio.all_tasks()
    producer = KafkaProducer(KafkaConnection(kafka_bootstrap), {})
    await producer.start()
    await producer.acknowledged(await producer.send({(topic_factory("stopped", partitions=1), 0): [numbered(0)]}))
    stopping = asyncio.create_task(producer.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    async def left() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - before

    await eventually(left, lambda tasks: not tasks, seconds=5)


async def test_behind_its_stop_a_producer_says_so_at_once(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("late", partitions=1)
    async with started(kafka_bootstrap) as producer:
        assert await producer.partitions([topic]) == {topic: 1}
    async with asyncio.timeout(ACKNOWLEDGE_SECONDS / 2):
        with pytest.raises(BrokerUnavailable, match="the producer was stopped"):
            await producer.partitions([f"{topic}-unasked"])
