"""Takes transactional ids over: who used them before can write nothing more, and what it had committed is known then."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    BrokerResponseError,
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NoError,
    NotCoordinatorError,
    for_code,
    kafka_errors,
)
from aiokafka.protocol.transaction import InitProducerIdRequest

from marty_msf.core.errors import BrokerRefused
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.errors import translate
from marty_msf.worker.broker.group_offsets import Committed, StableOffsetsRequest, committed

#: All ids together; a broker that has to load its logs first takes seconds.
FENCE_SECONDS: Final = 30
RETRY_SECONDS: Final = 0.02
CLOSE_SECONDS: Final = 1

Answer = TypeVar("Answer")


class UnstableOffsetError(BrokerResponseError):  # type: ignore[misc]  # aiokafka ships no types
    """Kafka's error 88, which aiokafka has no name for: a transaction with an offset of the group is being completed."""

    errno = 88
    message = "UNSTABLE_OFFSET_COMMIT"
    description = "a transaction with an offset of this group is being completed"


kafka_errors.setdefault(UnstableOffsetError.errno, UnstableOffsetError)

#: The transaction of the one before is being ended, or the coordinator moves: ask again.
_NOT_YET: Final = (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    UnstableOffsetError,
)


@dataclass(frozen=True, slots=True)
class Fenced:
    """A transactional id that is ours."""

    id: str
    producer_id: int
    epoch: int
    #: What was committed last under this id as a consumer group; offset 0 and no text when nothing was.
    last: Committed


async def fence(connection: KafkaConnection, ids: Collection[str], timeout_seconds: float) -> Mapping[str, Fenced]:
    """Take these ids over: an open transaction of the one before is aborted, one that is being committed is completed.

    A transaction left open is aborted by Kafka after `timeout_seconds`. Raises BrokerUnavailable, BrokerRefused.
    """
    with translate(connection, late=f"transactional ids were not taken over within {FENCE_SECONDS} s"):
        client = AIOKafkaClient(**connection.options(), client_id="marty-relay")
        try:
            async with asyncio.timeout(FENCE_SECONDS):
                await client.bootstrap()
                found = await asyncio.gather(*(_fence(client, it, timeout_seconds) for it in ids))
        except NotImplementedError as error:
            raise BrokerRefused(
                "spec.kafka.producer.transactional: true needs Kafka 2.5 or later: upgrade the brokers, or set it to false"
            ) from error
        finally:
            closing = asyncio.ensure_future(client.close())
            await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
            closing.cancel()
    return {it.id: it for it in found}


async def _fence(client: Any, id_: str, timeout_seconds: float) -> Fenced:
    async def take() -> Any:
        node = await _coordinator(client, CoordinationType.TRANSACTION, id_)
        request = InitProducerIdRequest(transactional_id=id_, transaction_timeout_ms=round(timeout_seconds * 1000))
        answer = await client.send(node, request, group=ConnectionGroup.COORDINATION)
        if (error := for_code(answer.error_code)) is not NoError:
            raise error()
        return answer

    async def look() -> Committed:
        node = await _coordinator(client, CoordinationType.GROUP, id_)
        answer = await client.send(node, StableOffsetsRequest(id_), group=ConnectionGroup.COORDINATION)
        return max(committed(answer), key=lambda it: it.offset, default=Committed(0, ""))

    # In this order: what is committed does not change any more once the id is ours.
    taken = await _again(take)
    return Fenced(id_, taken.producer_id, taken.producer_epoch, await _again(look))


async def _coordinator(client: Any, kind: CoordinationType, id_: str) -> int:
    if client.get_random_node() is None:
        # A cluster that comes back may tell of no broker for a moment, which the client takes for a mistake of ours.
        await client.force_metadata_update()
        if client.get_random_node() is None:
            raise CoordinatorNotAvailableError("Kafka tells of no broker yet")
    return int(await client.coordinator_lookup(kind, id_))


async def _again(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    while True:
        try:
            return await ask()
        except _NOT_YET:
            await asyncio.sleep(RETRY_SECONDS)
