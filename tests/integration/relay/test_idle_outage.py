"""A relay with nothing to publish notices that Kafka is gone, and that it is back; its process is alive all the time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from marty_msf.core.worker_status import ProblemReason
from marty_msf.patterns.outbox import (
    EnhancedOutboxProcessor,
    EnhancedOutboxRepository,
    OutboxConfig,
    create_kafka_message_broker,
)
from tests.integration.relay.setup import relay_config
from tests.support.broker import Broker
from tests.support.broker import broker as own_broker
from tests.support.kafka import count_topic, create_topic
from tests.support.processes import free_port
from tests.support.waiting import eventually
from tests.support.workers import worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

#: Far below the deadline of a batch, and below the lag that is unhealthy.
NOTICED_SECONDS = 8


@pytest_asyncio.fixture
async def kafka(tmp_path: Path) -> AsyncIterator[Broker]:
    async with own_broker(tmp_path) as made:
        create_topic(made.bootstrap, "orders", 1)
        yield made


def has(status: str) -> Callable[[dict[str, Any]], bool]:
    return lambda health: health["status"] == status


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with an event on its way"])
async def test_a_processor_is_unhealthy_within_seconds_of_kafkas_end_and_healthy_after_it_is_back(
    kafka: Broker, postgres_url: str, conn: asyncpg.Connection, busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker = create_kafka_message_broker({"bootstrap_servers": kafka.bootstrap})
    config = OutboxConfig(retry_backoff_ms=50, max_retry_backoff_ms=500)
    caplog.clear()
    async with EnhancedOutboxProcessor(message_broker=broker, config=config, database_url=postgres_url) as processor:
        await eventually(processor.health_check, has("healthy"))
        await kafka.kill()
        if busy:
            async with conn.transaction():
                await EnhancedOutboxRepository(conn).enqueue_event("orders", "made", {})
        health = await eventually(processor.health_check, has("unhealthy"), seconds=NOTICED_SECONDS)
        assert f"Kafka at {kafka.bootstrap} does not answer" in health["problems"][0]

        await kafka.start()
        await eventually(processor.health_check, has("healthy"), seconds=60)
        if busy:
            await eventually(lambda: asyncio.to_thread(count_topic, kafka.bootstrap, "orders"))
    assert not [record for record in caplog.records if record.name.startswith("aiokafka")]


async def test_the_client_is_heard_where_the_application_wants_it_or_uses_it_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    broker = create_kafka_message_broker({"bootstrap_servers": nobody})

    def heard() -> bool:
        return any(record.name.startswith("aiokafka") for record in caplog.records)

    await broker.health_check()
    assert not heard()
    with pytest.raises(KafkaConnectionError):
        await AIOKafkaClient(bootstrap_servers=nobody).bootstrap()
    assert heard()
    caplog.clear()
    with caplog.at_level("WARNING", "aiokafka"):
        await broker.health_check()
    assert heard()


async def test_a_pod_is_not_ready_while_kafka_hangs_but_alive(kafka: Broker, postgres_url: str, tmp_path: Path) -> None:
    config = relay_config(tmp_path / "config.json", kafka.bootstrap)
    async with worker(config, postgres_url, tmp_path) as relay:
        await relay.ready()
        kafka.freeze()
        try:
            await eventually(lambda: relay.get("/readyz"), lambda answer: answer[0] == 503, seconds=NOTICED_SECONDS)
            assert await relay.reasons() == {ProblemReason.BROKER_UNAVAILABLE}
            assert (await relay.get("/healthz"))[0] == 200
        finally:
            kafka.thaw()
        await relay.ready()
