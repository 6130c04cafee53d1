"""A topic is said to be missing only when a broker said so: its events would be held, and people be told to create it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from marty_msf.core.errors import BrokerUnavailable
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.producer import KafkaProducer
from tests.support.broker import broker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

#: Turns of the event loop from a question to its answer: each may be the one in which the next question comes.
TURNS = 40


@asynccontextmanager
async def started(bootstrap: str, acknowledge_seconds: float = 10) -> AsyncIterator[KafkaProducer]:
    producer = KafkaProducer(KafkaConnection(bootstrap), {}, acknowledge_seconds=acknowledge_seconds)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def test_a_topic_is_found_while_the_answer_about_another_one_is_on_its_way(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: who asks meanwhile is given that answer, which does not speak of the second topic."""
    first, second = topic_factory("first", partitions=1), topic_factory("second", partitions=3)
    for turns in range(TURNS):
        async with started(kafka_bootstrap) as producer:
            asking = asyncio.create_task(producer.partitions([first]))
            for _ in range(turns):
                await asyncio.sleep(0)
            assert await producer.partitions([second, "missing-everywhere"]) == {second: 3, "missing-everywhere": 0}
            assert await asking == {first: 1}


async def test_a_topic_is_not_missing_because_no_broker_answers(tmp_path: Path) -> None:
    async with broker(tmp_path) as own, started(own.bootstrap, acknowledge_seconds=3) as producer:
        await own.kill()
        with pytest.raises(BrokerUnavailable):
            await producer.partitions(["never-asked-for"])
