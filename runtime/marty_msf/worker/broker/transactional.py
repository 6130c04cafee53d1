"""Writing to Kafka in transactions, under an id that was taken over (see fencing)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Final

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.errors import translate
from marty_msf.worker.broker.fencing import Fenced
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.broker.sending import Message, Partition, Sent, Session, Tuning
from marty_msf.worker.broker.transactional_client import TransactionalClient

#: A consumer group's offsets are of a topic, and the broker asks for this right on it.
READ_AND_WRITE: Final = "Read, Write and Describe"


class TransactionalProducer(KafkaProducer):
    """One transaction at a time. After any error it must be stopped; what is open then ends with the id's next `fence`."""

    _transactional = True

    def __init__(
        self,
        connection: KafkaConnection,
        batch_bytes: MutableMapping[str, int],
        fenced: Fenced,
        *,
        tuning: Tuning,
        acknowledge_seconds: float,
    ) -> None:
        super().__init__(connection, batch_bytes, tuning=tuning, acknowledge_seconds=acknowledge_seconds)
        self._fenced = fenced
        self._number = fenced.last.offset
        self._transaction: TransactionalClient | None = None

    def _new(self) -> Session:
        self._transaction = TransactionalClient(
            **self._options(),
            transactional_id=self._fenced.id,
            enable_idempotence=True,
            acks="all",
            max_batch_size=self._tuning.batch_bytes,
            # Our batches are bounded above; this bound only refuses single records, and the broker does that better.
            max_request_size=2**31 - 1,
            linger_ms=self._tuning.linger_ms,
        )
        self._transaction.use(self._fenced)
        return self._transaction

    async def transact(
        self,
        messages: Mapping[Partition, Sequence[Message]],
        note: Callable[[], Awaitable[str]] | None = None,
        sent: list[Sent] | None = None,
    ) -> None:
        """Write the messages, and commit them together with a text that `fence` finds as the id's last one.

        Fills `sent`, whose ends tell what was refused. The text is asked for when Kafka has the messages. Raises what
        `acknowledged` does, and LeaseLost when the id was taken over: then, and after BrokerUnavailable, the next `fence`
        tells whether it was committed.
        """
        client = self._transaction
        assert client is not None, "the producer was not started"
        late = self._late("no acknowledgement of a transaction's events")
        with translate(self._connection, rights=READ_AND_WRITE, late=late):
            async with asyncio.timeout(self._deadline_seconds):
                await client.begin_transaction()
                await client.until_failed(self._sent_and_acknowledged(messages, [] if sent is None else sent))
        text = await note() if note else None
        late = self._late("a transaction was not committed")
        with translate(self._connection, rights=READ_AND_WRITE, late=late):
            async with asyncio.timeout(self._deadline_seconds):
                if text is not None:
                    self._number += 1
                    # Any partition that is there; that of a text before may be of another topic, hence the number.
                    partition = TopicPartition(min(topic for topic, _ in messages), 0)
                    offsets = {partition: OffsetAndMetadata(self._number, text)}
                    await client.send_offsets_to_transaction(offsets, self._fenced.id)
                await client.commit_transaction()

    async def _sent_and_acknowledged(self, messages: Mapping[Partition, Sequence[Message]], sent: list[Sent]) -> None:
        sent += await self.send(messages)
        await self.acknowledged(sent)
