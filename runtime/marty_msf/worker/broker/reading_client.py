"""What we need of aiokafka's consumer beyond what it offers: questions about single topics, and a stop that ends."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    NoBrokersAvailable,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from marty_msf.core.errors import TopicUnavailable
from marty_msf.worker.broker.topic_ids import TopicIdsRequest, ids

#: What Kafka calls the leader of a partition that has none.
_NO_LEADER: Final = -1

_REMEDIES: Final[Mapping[type[Exception], str]] = {
    UnknownTopicOrPartitionError: "does not exist: create it or correct the name; it is read as soon as it appears",
    TopicAuthorizationFailedError: "is forbidden to this client: grant it Read and Describe on the topic",
    InvalidTopicError: "has a name that Kafka refuses: correct it",
}


class ReadingClient(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka ships no types
    async def describe(self, topics: Sequence[str]) -> Mapping[str, Sequence[int] | TopicUnavailable]:
        """Partitions of just these topics. aiokafka itself asks for all topics of the cluster, or creates missing ones."""
        answer = await self._ask_any(MetadataRequest(list(topics), allow_auto_topic_creation=False))
        found: dict[str, Sequence[int] | TopicUnavailable] = {}
        for code, topic, _, partitions in answer.topics:
            error = for_code(code)
            if remedy := _REMEDIES.get(error):
                found[topic] = TopicUnavailable(f"Kafka topic {topic!r} {remedy}", [topic])
            elif error is not NoError:
                raise error(topic)
            else:
                found[topic] = sorted(partition for _, partition, *_ in partitions)
        return found

    def leader(self, partition: TopicPartition) -> int | None:
        """The broker that this client reads the partition from; None while it knows of none."""
        found = self._client.cluster.leader_for_partition(partition)
        return None if found == _NO_LEADER else found

    async def topic_ids(self, node: int, topics: Collection[str]) -> Mapping[str, UUID | None]:
        """The ids of topics as one broker knows them now; empty when it does not answer.

        Asked over the connection that aiokafka keeps for groups, which we have none of: on the other one the answer
        would wait behind an idle fetch.
        """
        request = TopicIdsRequest(sorted(topics))
        try:
            return ids(await self._client.send(node, request, group=ConnectionGroup.COORDINATION))
        except KafkaError:
            return {}

    async def stop(self) -> None:
        """aiokafka awaits the fetches it has just cancelled: it then ends like a cancelled task itself, half closed."""
        try:
            await super().stop()
        except asyncio.CancelledError:
            # It was the coordinator's end, maybe: then nobody has ended the fetcher, whose tasks would outlive it.
            left = [self._fetcher._fetch_task, *self._fetcher._pending_tasks] if self._fetcher else []
            for fetching in left:
                fetching.cancel()
            try:
                if left:
                    await asyncio.wait(left)
            finally:
                await self._client.close()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise

    async def refresh(self) -> None:
        """Let the client itself learn about new partitions and their leaders."""
        await self._client.force_metadata_update()

    async def _ask_any(self, request: MetadataRequest) -> Any:
        """The answer of the first broker that gives one."""
        failure: KafkaError = NoBrokersAvailable("no Kafka broker is known")
        for broker in self._client.cluster.brokers():
            try:
                return await self._client.send(broker.nodeId, request)
            except KafkaError as error:
                failure = error
        raise failure
