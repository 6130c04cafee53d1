"""Nothing gets into Kafka behind a refused batch, not even when new data wakes the sender at that very moment."""

import asyncio
from collections.abc import Callable

import pytest

from marty_msf.core.errors import BrokerUnavailable, MartyError, NotSent, PoisonEvent
from marty_msf.core.records import tail
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.producer import KafkaProducer
from tests.support.kafka import read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

SESSIONS = 60
#: So many that some is free for new data at any moment.
OTHERS = 100


async def keep_waking(producer: KafkaProducer, topic: str, stop: asyncio.Event) -> None:
    """Other data all the time, for a partition after the other."""
    number = 0
    while not stop.is_set():
        number += 1
        try:
            sent = await producer.send({(topic, number % OTHERS): [tail(b"k", b"v", [])]})
            for it in sent:
                it.acknowledged.add_done_callback(lambda future: future.cancelled() or future.exception())
        except MartyError:
            return
        await asyncio.sleep(0)


async def test_nothing_gets_in_behind_a_refused_batch(kafka_bootstrap: str, topic_factory: Callable[..., str]) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    other = topic_factory("other", partitions=OTHERS)
    for _ in range(SESSIONS):
        producer, stop = KafkaProducer(KafkaConnection(kafka_bootstrap), {}), asyncio.Event()
        await producer.start()
        waking = asyncio.create_task(keep_waking(producer, other, stop))
        try:
            first = await producer.send({(small, 0): [tail(b"a", b"x" * 5000, [])]})
            behind = asyncio.create_task(producer.send({(small, 0): [tail(b"a", b"behind", [])]}))
            with pytest.raises(PoisonEvent):
                await producer.acknowledged(first)
            with pytest.raises(BrokerUnavailable):
                await producer.acknowledged(await behind)
        finally:
            stop.set()
            await producer.stop()
            await waking
    assert await asyncio.to_thread(read_topic, kafka_bootstrap, small) == []


async def test_who_sends_behind_a_refused_batch_does_not_hide_the_refusal(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: the third call waits for the second one's turn and fails, which looks like an outage; the relay begins anew
    before it has asked why, with the same batches, again and again: none of its lanes moves any more."""
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    producer = KafkaProducer(KafkaConnection(kafka_bootstrap), {})
    await producer.start()
    try:
        refused = await producer.send({(small, 0): [tail(b"a", b"x" * 5000, [])]})
        behind = [await producer.send({(small, 0): [tail(b"a", b"behind", [])]}) for _ in range(3)]
        for sent in behind:
            with pytest.raises(NotSent):
                await producer.acknowledged(sent)
        # Whichever comes first, the refusal is what is told.
        for answer in ([*behind[0], *refused], [*refused, *behind[0]]):
            with pytest.raises(PoisonEvent):
                await producer.acknowledged(answer)
        with pytest.raises(PoisonEvent):
            await producer.acknowledged(refused)
    finally:
        await producer.stop()
    assert await asyncio.to_thread(read_topic, kafka_bootstrap, small) == []
