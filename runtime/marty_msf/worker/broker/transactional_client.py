"""aiokafka's producer, for transactions: it sends nothing behind a batch that was refused, and gives up a topic that is gone."""

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.client import CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, UnknownTopicOrPartitionError
from aiokafka.producer.sender import AddPartitionsToTxnHandler, TxnOffsetCommitHandler
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.protocol.produce import ProduceRequest as TheirProduceRequest

from marty_msf.worker.broker.fencing import Fenced
from marty_msf.worker.broker.produce_request import ProduceRequest
from marty_msf.worker.broker.record_batch import RecordBatch
from marty_msf.worker.broker.sending import Halted, Partition, Sent, ask_nothing_more
from marty_msf.worker.broker.session import CLOSE_SECONDS, describe, is_gone

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
    if is_gone(sender, time.monotonic(), known=not gone):
        sender._txn_manager.error_transaction(UnknownTopicOrPartitionError(gone))
        return None
    return pause_seconds


class TransactionalClient(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka ships no types
    """See sending.Session."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._take = self._message_accumulator.drain_by_nodes
        self._message_accumulator.drain_by_nodes = self._take_unless_refused
        self._on_their_way: list[Any] = []
        self._refused = False
        self._unacknowledged: set[asyncio.Future[Any]] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        self._produce = self._sender._send_produce_req
        self._sender._send_produce_req = self._produce_noted
        self._request = self.client.send
        self.client.send = self._send_request
        #: Of the transaction's topics, see Missed.
        self._sender.gone_since = None
        self._sender._do_add_partitions_to_txn = self._add_partitions
        self._sender._do_txn_offset_commit = self._commit_offsets
        self._ask_coordinator = self._sender._maybe_do_transactional_request
        self._sender._maybe_do_transactional_request = self._ask_coordinator_noted

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

    async def describe(self, topic: str) -> int:
        """See Session."""
        return await describe(self.client, topic)

    @property
    def forbidden(self) -> Collection[str]:
        """See Session."""
        return frozenset(self._metadata.unauthorized_topics)

    async def refresh(self) -> bool:
        """See Session."""
        return bool(await self.client.force_metadata_update())

    async def post(self, batches: Mapping[Partition, Sequence[RecordBatch]]) -> Sequence[Sent]:
        """See Session. Waits until a partition's next to last batch is on its way."""
        waiting = {partition: list(its) for partition, its in batches.items()}
        sent: list[Sent] = []
        while waiting:
            # One batch of each partition at a time: a partition takes the next one when its first is on its way.
            for (topic, number), its in list(waiting.items()):
                try:
                    sent.append(await self._post(its.pop(0), topic, number))
                except Halted as error:
                    return [*sent, _not_sent(topic, number, error)]
                if not its:
                    del waiting[topic, number]
        return sent

    async def abandon(self) -> None:
        """See Session; `stop` of the base class waits for a broker that may never answer."""
        for future in tuple(self._unacknowledged):
            future.cancel()
        self._closed = True
        if (sending := self._sender.sender_task) is not None:
            sending.cancel()
            await asyncio.wait({sending}, timeout=CLOSE_SECONDS)
            # It waits until its requests have ended, which those that a broker does not answer may never do.
            if left := {task for task in (sending, *self._requests) if not task.done()}:
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=CLOSE_SECONDS)
        await self.client.close()
        if (ended := self._txn_manager.wait_for_transaction_end()) is not None:
            # Nobody may have asked for it.
            ask_nothing_more(ended)

    async def _post(self, batch: RecordBatch, topic: str, partition: int) -> Sent:
        records, size = batch.record_count(), batch.size()
        future = await self.send_batch(batch, topic, partition=partition)
        self._unacknowledged.add(future)
        future.add_done_callback(self._decided)
        return Sent(topic, partition, records, size, future)

    def _decided(self, future: "asyncio.Future[Any]") -> None:
        self._unacknowledged.discard(future)
        if _failed(future):
            self._halt()

    def _halt(self) -> None:
        """Send nothing more: the broker would take the batches behind a refused one, and so lose their order."""
        if not (self._sender.sender_task.done() or self._sender.sender_task.cancelling()):
            self._sender.sender_task.add_done_callback(self._fail_rest)
            self._sender.sender_task.cancel()

    def _fail_rest(self, _: "asyncio.Future[None]") -> None:
        waiting = self._message_accumulator
        rest = [*chain.from_iterable(waiting._batches.values()), *waiting._pending_batches]
        waiting.fail_all(Halted())
        for batch in rest:
            ask_nothing_more(batch._drain_waiter)

    def _take_unless_refused(self, *given: Any, **named: Any) -> Any:
        """What aiokafka sends next: nothing any more once a batch was refused or the transaction has failed.

        New data may wake its sender after a refusal and before the callbacks that tell of it have run. A broker that
        has no batch of this session yet takes one whose sequence does not begin at 0, and with it a wrong order. And of a
        failed transaction aiokafka forgets which partitions are no part of it yet, and would write to them outside of the
        transaction, where nothing ends what it wrote.
        """
        self._refused = self._refused or any(_failed(batch.future) for batch in self._on_their_way)
        if self._refused or self._txn_manager.state in _FAILED:
            return {}, False
        batches, leaders_unknown = self._take(*given, **named)
        self._on_their_way = [batch for batch in self._on_their_way if not batch.future.done()]
        self._on_their_way += chain.from_iterable(found.values() for found in batches.values())
        return batches, leaders_unknown

    async def _send_request(self, node_id: int, request: Any, **named: Any) -> Any:
        if isinstance(request, TheirProduceRequest):
            request = ProduceRequest(request._transactional_id, request._timeout, request._topics)
        return await self._request(node_id, request, **named)

    async def _produce_noted(self, *given: Any) -> None:
        if (request := asyncio.current_task()) is not None:
            self._note(request)
        await self._produce(*given)

    def _note(self, request: "asyncio.Task[Any]") -> None:
        """It ends with the client."""
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    def _ask_coordinator_noted(self) -> "asyncio.Task[Any] | None":
        request: asyncio.Task[Any] | None = self._ask_coordinator()
        if request is not None:
            self._note(request)
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


def _failed(future: "asyncio.Future[Any]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None


def _not_sent(topic: str, partition: int, error: Halted) -> Sent:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    ask_nothing_more(future)
    return Sent(topic, partition, 0, 0, future)
