"""The library's Kafka: what it is told by keys is what it does, and its health says what is wrong."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.errors import AuthenticationFailed, BrokerUnavailable
from marty_msf.core.records import tail
from marty_msf.patterns.choreography.bus import EventBus
from marty_msf.patterns.choreography.event import Event
from marty_msf.patterns.outbox.broker import KafkaMessageBroker, create_kafka_message_broker
from tests.integration.patterns.test_event_bus import send
from tests.support.broker import broker as own_broker
from tests.support.kafka import create_topic, read_topic
from tests.support.processes import free_port
from tests.support.secure_broker import CERTIFIED, PASSWORD, USER, SecureBroker, secure_broker
from tests.support.waiting import eventually

pytestmark = pytest.mark.kafka

LOGIN = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": USER, "sasl_plain_password": PASSWORD}


async def publish(broker: KafkaMessageBroker, topic: str, value: bytes) -> None:
    producer = broker.producer({})
    try:
        await producer.start()
        await producer.acknowledged(await producer.send({(topic, 0): [tail(b"key", value, [])]}))
    finally:
        await producer.stop()


async def test_it_is_healthy_while_kafka_answers(kafka_bootstrap: str, topic_factory: Callable[..., str]) -> None:
    topic = topic_factory(partitions=1)
    broker = create_kafka_message_broker(
        {
            "bootstrap_servers": kafka_bootstrap,
            "client_id": "order-service",
            "enable_idempotence": True,
            "compression_type": "zstd",
            "linger_ms": 1,
        }
    )

    await publish(broker, topic, b"one")

    health = await broker.health_check()
    assert (health.status, list(health.brokers), health.error) == ("healthy", [kafka_bootstrap], None)
    assert [message.value for message in read_topic(kafka_bootstrap, topic)] == [b"one"]


async def test_it_is_unhealthy_while_kafka_does_not_answer() -> None:
    servers = f"127.0.0.1:{free_port()}"
    health = await create_kafka_message_broker({"bootstrap_servers": servers}).health_check()
    assert (health.status, list(health.brokers)) == ("unhealthy", [])
    assert health.error is not None
    assert health.error.startswith(f"Kafka at {servers} does not answer")
    assert "check bootstrap_servers and the network" in health.error


async def test_what_a_batch_lingers_is_no_part_of_its_deadline(
    kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory(partitions=1)
    producer = create_kafka_message_broker({"bootstrap_servers": kafka_bootstrap, "linger_ms": 1000}).producer({}, 1.0)
    try:
        await producer.start()
        for value in (b"one", b"two"):
            await producer.acknowledged(await producer.send({(topic, 0): [tail(b"key", value, [])]}))
    finally:
        await producer.stop()
    assert [message.value for message in read_topic(kafka_bootstrap, topic)] == [b"one", b"two"]


async def test_nothing_goes_on_behind_a_producer_that_is_stopped_while_kafka_hangs(tmp_path: Path) -> None:
    async with own_broker(tmp_path) as kafka:
        create_topic(kafka.bootstrap, "orders", 1)
        before = asyncio.all_tasks()
        producer = create_kafka_message_broker({"bootstrap_servers": kafka.bootstrap}).producer({}, 60.0)
        try:
            await producer.start()
            await producer.acknowledged(await producer.send({("orders", 0): [tail(b"key", b"value", [])]}))
            kafka.freeze()
            idle = asyncio.all_tasks()
            await producer.send({("orders", 0): [tail(b"key", b"value", [])]})

            async def requests() -> set[asyncio.Task[object]]:
                return asyncio.all_tasks() - idle

            await eventually(requests)
        finally:
            await producer.stop()
            kafka.thaw()
        assert asyncio.all_tasks() - before == set()


async def test_a_late_acknowledgement_says_what_was_waited_for_and_how_long(tmp_path: Path) -> None:
    async with own_broker(tmp_path) as kafka:
        create_topic(kafka.bootstrap, "orders", 1)
        message = {("orders", 0): [tail(b"key", b"value", [])]}
        producer = create_kafka_message_broker({"bootstrap_servers": kafka.bootstrap}).producer({}, 1.0)
        try:
            await producer.start()
            await producer.acknowledged(await producer.send(message))
            kafka.freeze()
            with pytest.raises(BrokerUnavailable) as late:
                await producer.acknowledged(await producer.send(message))
        finally:
            kafka.thaw()
            await producer.stop()
        assert str(late.value) == (
            f"Kafka at {kafka.bootstrap} does not answer: no acknowledgement within 1 s (batch_timeout_ms): workers try again by themselves;"
            " check bootstrap_servers and the network"
        )


@pytest.mark.postgres
async def test_certificates_and_logins_by_their_keys(
    tmp_path: Path, postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with secure_broker(tmp_path) as kafka:
        create_topic(kafka.admin, "orders", 1)
        ca = {"ssl_cafile": str(tmp_path / "ca.crt")}
        certificate = {f"ssl_{name}": str(tmp_path / f"{CERTIFIED}.{end}") for name, end in _FILES}
        ways = {
            "TLS": {"security_protocol": "SSL", **ca},
            "MTLS": {"security_protocol": "SSL", **ca, **certificate},
            "LOGIN": {"security_protocol": "SASL_PLAINTEXT", **LOGIN},
            "LOGINTLS": {"security_protocol": "SASL_SSL", **ca, **LOGIN},
        }
        for listener, settings in ways.items():
            broker = create_kafka_message_broker({"bootstrap_servers": kafka.broker.at(listener), **settings})
            await publish(broker, "orders", listener.encode())
            assert (await broker.health_check()).brokers == [kafka.broker.at(listener)]
        assert [message.value for message in read_topic(kafka.admin, "orders")] == [it.encode() for it in ways]

        await _is_told_of_a_wrong_password(kafka)
        await _reads_as_an_event_bus(kafka, postgres_url, ways["LOGINTLS"])


async def _is_told_of_a_wrong_password(kafka: SecureBroker) -> None:
    wrong = {**LOGIN, "security_protocol": "SASL_PLAINTEXT", "sasl_plain_password": "not-this"}
    broker = create_kafka_message_broker({"bootstrap_servers": kafka.broker.at("LOGIN"), **wrong})
    health = await broker.health_check()
    assert health.status == "unhealthy"
    assert health.error is not None
    assert "authentication failed for user 'shop' (SCRAM-SHA-512)" in health.error
    assert "check sasl_plain_username and sasl_plain_password" in health.error
    assert "not-this" not in health.error
    with pytest.raises(AuthenticationFailed):
        await publish(broker, "orders", b"x")


async def _reads_as_an_event_bus(kafka: SecureBroker, postgres_url: str, security: dict[str, str]) -> None:
    create_topic(kafka.admin, "events", 1)
    bus = EventBus(
        "service",
        "events",
        bootstrap_servers=kafka.broker.at("LOGINTLS"),
        kafka_security=security,
        database_url=postgres_url,
    )
    got: list[str] = []

    @bus.handler("counted")
    async def handle(event: Event) -> None:
        got.append(event.aggregate_id)

    async def handled() -> list[str]:
        return got

    send(kafka.admin, "events", ("e-1", "o-1", {}))
    async with bus:
        assert await eventually(handled) == ["o-1"]


_FILES = (("certfile", "crt"), ("keyfile", "key"))
