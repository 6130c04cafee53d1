"""Writing to Kafka in transactions, under an id that was taken over (see fencing)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, UnknownTopicOrPartitionError
from aiokafka.producer.sender import AddPartitionsToTxnHandler, TxnOffsetCommitHandler
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.structs import OffsetAndMetadata

from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.errors import translate
from marty_msf.worker.broker.fencing import Fenced
from marty_msf.worker.broker.producer import Client, KafkaProducer, Message, Partition, Sent, Tuning

#: A consumer group's offsets are of a topic, and the broker asks for this right on it.
READ_AND_WRITE: Final = "Read, Write and Describe"
#: A topic that is new may be unknown to some brokers for a moment.
GONE_SECONDS: Final = 2.0
_FAILED: Final = (TransactionState.ABORTABLE_ERROR, TransactionState.FATAL_ERROR)


class _AddPartitions(AddPartitionsToTxnHandler):  # type: ignore[misc]  # aiokafka ships no types
    def handle_response(self, answer: Any) -> float | None:
        return _unless_gone(self._sender, answer, super().handle_response(answer))


class _CommitOffsets(TxnOffsetCommitHandler):  # type: ignore[misc]  # aiokafka ships no types
    def handle_response(self, answer: Any) -> float | None:
        return _unless_gone(self._sender, answer, super().handle_response(answer))


def _unless_gone(sender: Any, answer: Any, pause_seconds: float | None) -> float | None:
    """aiokafka asks again and again for a topic that is not there; here the transaction fails when it stays away."""
    gone = {
        topic
        for topic, partitions in answer.errors
        for _, code in partitions
        if code == UnknownTopicOrPartitionError.errno
    }
    now = time.monotonic()
    if not gone or sender.gone_since is None:
        sender.gone_since = now if gone else None
    elif now - sender.gone_since > GONE_SECONDS:
        sender._txn_manager.error_transaction(UnknownTopicOrPartitionError(gone))
        return None
    return pause_seconds


class _TransactionalClient(Client):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: Since when Kafka knows a topic of the transaction no more.
        self._sender.gone_since = None
        self._sender._do_add_partitions_to_txn = self._add_partitions
        self._sender._do_txn_offset_commit = self._commit_offsets
        self._ask_coordinator = self._sender._maybe_do_transactional_request
        self._sender._maybe_do_transactional_request = self._ask_coordinator_noted

    def _ask_coordinator_noted(self) -> "asyncio.Task[Any] | None":
        request: asyncio.Task[Any] | None = self._ask_coordinator()
        if request is not None:
            self.note(request)
        return request

    async def _add_partitions(self, partitions: Any) -> Any:
        """In the place of aiokafka's, which has the handler that never gives up."""
        node = await self._sender._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        return await _AddPartitions(self._sender, partitions).do(node)

    async def _commit_offsets(self, offsets: Any, group_id: str) -> None:
        """See `_add_partitions`."""
        if not offsets:
            return
        try:
            node = await self._sender._find_coordinator(CoordinationType.GROUP, group_id)
        except GroupAuthorizationFailedError as error:
            self._txn_manager.error_transaction(error)
            return
        await _CommitOffsets(self._sender, offsets, group_id).do(node)

    def use(self, fenced: Fenced) -> None:
        """Go on with what `fence` was given, in place of asking for a producer id, which would raise the epoch again."""
        self._txn_manager.set_pid_and_epoch(fenced.producer_id, fenced.epoch)

    async def until_failed(self, work: Coroutine[Any, Any, None]) -> None:
        """Await the work; a transaction that failed meanwhile ends it, with what is known of that."""
        ended, task = self._txn_manager.wait_for_transaction_end(), asyncio.ensure_future(work)
        try:
            await asyncio.wait({ended, task}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
            await task
        finally:
            task.cancel()

    async def abandon(self) -> None:
        """See Client."""
        await super().abandon()
        if (ended := self._txn_manager.wait_for_transaction_end()) is not None and ended.done():
            # Nobody may have asked for it: asked for once, so that asyncio does not call it forgotten.
            with suppress(asyncio.CancelledError):
                ended.exception()

    def _take_unless_refused(self, *given: Any, **named: Any) -> Any:
        """Nothing once the transaction has failed.

        aiokafka forgets then which partitions are no part of it yet, and would write to them outside of the transaction,
        where nothing ends what it wrote.
        """
        if self._txn_manager.state in _FAILED:
            return {}, False
        return super()._take_unless_refused(*given, **named)


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
        self._transaction: _TransactionalClient | None = None

    def _new(self) -> Client:
        self._transaction = _TransactionalClient(**self._options(), transactional_id=self._fenced.id)
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
