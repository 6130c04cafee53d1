"""Whether Kafka can be used at all, asked with a client of its own."""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka.client import AIOKafkaClient

from marty_msf.core.errors import BrokerUnavailable
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.diagnosis import diagnosis
from marty_msf.worker.broker.errors import translate

ANSWER_SECONDS: Final = 5


async def brokers(connection: KafkaConnection, client_id: str) -> Sequence[str]:
    """`host:port` of every broker, as Kafka tells them. Raises BrokerUnavailable, BrokerRefused."""
    try:
        with translate(connection, late=f"no answer within {ANSWER_SECONDS} s"):
            client = AIOKafkaClient(
                **connection.options(), client_id=client_id, request_timeout_ms=ANSWER_SECONDS * 1000
            )
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await client.bootstrap()
                return sorted(f"{broker.host}:{broker.port}" for broker in client.cluster.brokers())
            finally:
                await client.close()
    except BrokerUnavailable as error:
        if found := await diagnosis(connection):
            raise found from error
        raise
