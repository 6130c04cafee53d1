"""A session of an idempotent producer: record batches leave in order per partition, and each is stored once.

One request to each broker is on its way at a time, with the next batch of every partition that the broker leads. What Kafka
could not take now goes again, with the sequence number it had, so that Kafka knows it if it was taken after all:
https://kafka.apache.org/documentation/#producerconfigs_enable.idempotence. What Kafka refuses ends the session, because it
would take the batches behind it.
"""

import asyncio
import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    DuplicateSequenceNumber,
    KafkaError,
    NodeNotReadyError,
    NoError,
    ProducerClosed,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest

from marty_msf.worker.broker.produce_request import Answer, ProduceRequest
from marty_msf.worker.broker.record_batch import RecordBatch
from marty_msf.worker.broker.sending import Halted, Partition, Sent, ask_nothing_more

logger = logging.getLogger(__name__)

#: Before what Kafka could not take now is tried again.
RETRY_SECONDS: Final = 0.1
#: A partition that is new may be unknown to some brokers for a moment; one that stays away longer was deleted.
GONE_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 1
#: Of a request, unless one batch alone has more. A broker ends the connection of one that is over its
#: socket.request.max.bytes, and so each loss of a connection halves it, down to what Kafka's own clients send at most.
REQUEST_BYTES: Final = 8 * 1024 * 1024
LEAST_REQUEST_BYTES: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Waiting:
    """A batch that Kafka has not acknowledged."""

    partition: Partition
    batch: RecordBatch
    acknowledged: "asyncio.Future[None]"
    #: When it need not wait for its turn any more; time of time.monotonic.
    due_at: float
    numbered: bool = False
    #: See Missed.
    gone_since: float | None = None


class ProduceSession:
    """See sending.Session. Belongs to the event loop it was made in."""

    def __init__(self, options: Mapping[str, Any], linger_seconds: float) -> None:
        """`options` are those of an AIOKafkaClient; a request without an answer for `request_timeout_ms` is sent again."""
        self._client = AIOKafkaClient(**options)
        self._linger_seconds = linger_seconds
        self._timeout_ms: int = options["request_timeout_ms"]
        self._loop = asyncio.get_running_loop()
        self._producer_id = self._epoch = -1
        #: The next sequence number of each partition.
        self._sequences: dict[Partition, int] = {}
        #: What is to be sent; a partition without anything is not in it.
        self._queues: dict[Partition, deque[_Waiting]] = {}
        #: Brokers and partitions of which something is on its way.
        self._busy: set[int] = set()
        self._sending: dict[Partition, _Waiting] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._request_bytes = REQUEST_BYTES
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    async def start(self) -> None:
        """See Session. Raises ClusterAuthorizationFailedError where idempotent writing is not allowed."""
        await self._client.bootstrap()
        while True:
            try:
                node = self._client.get_random_node()
                answer = await self._client.send(node, InitProducerIdRequest(None, self._timeout_ms))
                error = for_code(answer.error_code)
                if error is NoError:
                    self._producer_id, self._epoch = answer.producer_id, answer.producer_epoch
                    return
                raise error()
            except KafkaError as refused:
                if not refused.retriable:
                    raise
                logger.debug("no producer id: %r", refused)
                await asyncio.sleep(RETRY_SECONDS)
                await self._client.force_metadata_update()

    async def describe(self, topic: str) -> int:
        """See Session."""
        return await describe(self._client, topic)

    @property
    def forbidden(self) -> Collection[str]:
        """See Session."""
        return frozenset(self._client.cluster.unauthorized_topics)

    async def refresh(self) -> bool:
        """See Session."""
        return bool(await self._client.force_metadata_update())

    async def post(self, batches: Mapping[Partition, Sequence[RecordBatch]]) -> Sequence[Sent]:
        """See Session. Never waits."""
        linger_until = time.monotonic() + self._linger_seconds
        sent = []
        for partition, its in batches.items():
            for batch in its:
                waiting = _Waiting(
                    partition, batch, self._loop.create_future(), 0.0 if batch.closed() else linger_until
                )
                sent.append(Sent(*partition, batch.record_count(), batch.size(), waiting.acknowledged))
                if self._over:
                    _fail(waiting, Halted())
                elif partition in self._queues:
                    self._queues[partition].append(waiting)
                else:
                    self._queues[partition] = deque((waiting,))
        self._send_due()
        return sent

    async def abandon(self) -> None:
        """See Session."""
        self._halt()
        for waiting in self._sending.values():
            _fail(waiting, ProducerClosed())
        for request in self._requests:
            request.cancel()
        if self._requests:
            await asyncio.wait(self._requests, timeout=CLOSE_SECONDS)
        await self._client.close()

    def _send_due(self) -> None:
        """One request to each broker that has none and for which there is anything."""
        if self._over:
            return
        now = time.monotonic()
        chosen: defaultdict[int, list[_Waiting]] = defaultdict(list)
        room: dict[int, int] = {}
        again_at = math.inf
        gone: list[_Waiting] = []
        for partition, queue in self._queues.items():
            first = queue[0]
            if partition in self._sending:
                continue
            if first.due_at > now:
                again_at = min(again_at, first.due_at)
            elif (node := self._leader(partition)) is None:
                if is_gone(first, now, known=self._knows(partition)):
                    gone.append(first)
                self._client.force_metadata_update()
                again_at = min(again_at, now + RETRY_SECONDS)
            elif node not in self._busy and (left := room.get(node, self._request_bytes)) > 0:
                chosen[node].append(first)
                room[node] = left - first.batch.size()
        for node, its in chosen.items():
            self._request(node, its)
        if gone:
            self._refuse(gone[0], UnknownTopicOrPartitionError())
        elif again_at < math.inf:
            self._look_at(again_at)

    def _leader(self, partition: Partition) -> int | None:
        """None while there is none, or it is not known."""
        topics = self._client.cluster._partitions
        found = topics.get(partition[0], {}).get(partition[1])
        return None if found is None or found.leader == -1 else found.leader

    def _knows(self, partition: Partition) -> bool:
        topic, number = partition
        return number in (self._client.cluster.partitions_for_topic(topic) or ())

    def _request(self, node: int, chosen: Sequence[_Waiting]) -> None:
        topics: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for waiting in chosen:
            partition = waiting.partition
            queue = self._queues.pop(partition)
            queue.popleft()
            if queue:
                # Behind those that found no room in this request.
                self._queues[partition] = queue
            if not waiting.numbered:
                self._number(waiting)
            self._sending[partition] = waiting
            topics[partition[0]].append((partition[1], waiting.batch._build()))
        self._busy.add(node)
        request = ProduceRequest(None, self._timeout_ms, list(topics.items()))
        task = self._loop.create_task(self._exchange(node, request, chosen))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    def _number(self, waiting: _Waiting) -> None:
        """Number its records, for good: by these numbers Kafka knows it again."""
        sequence = self._sequences.get(waiting.partition, 0)
        self._sequences[waiting.partition] = (sequence + waiting.batch.record_count()) & 0x7FFFFFFF
        waiting.batch._set_producer_state(self._producer_id, self._epoch, sequence)
        waiting.numbered = True

    async def _exchange(self, node: int, request: ProduceRequest, chosen: Sequence[_Waiting]) -> None:
        """Send a request, and deal with what Kafka says of each batch."""
        try:
            answer: Answer = await self._client.send(node, request)
        except KafkaError as error:
            logger.info("a request to Kafka's node %s is sent again: %r", node, error)
            self._request_bytes = max(self._request_bytes // 2, LEAST_REQUEST_BYTES)
            errors: Mapping[Partition, KafkaError | None] = dict.fromkeys((it.partition for it in chosen), error)
        else:
            errors = {
                (topic, number): None if code == 0 else for_code(code)()
                for topic, results in answer.topics
                for number, code, _, _ in results
            }
        finally:
            self._busy.discard(node)
            for waiting in chosen:
                del self._sending[waiting.partition]
        for waiting in chosen:
            self._settle(waiting, errors.get(waiting.partition, RequestTimedOutError()))
        self._send_due()

    def _settle(self, waiting: _Waiting, error: KafkaError | None) -> None:
        # A duplicate is one that Kafka has had for long.
        if error is None or isinstance(error, DuplicateSequenceNumber):
            if not waiting.acknowledged.done():
                waiting.acknowledged.set_result(None)
        elif not error.retriable:
            self._refuse(waiting, error)
        elif self._over:
            _fail(waiting, error)
        else:
            self._put_back(waiting, error)

    def _put_back(self, waiting: _Waiting, error: KafkaError) -> None:
        """Before what was behind it."""
        now = time.monotonic()
        if is_gone(waiting, now, known=not isinstance(error, UnknownTopicOrPartitionError)):
            self._refuse(waiting, error)
            return
        if error.invalid_metadata:
            self._client.force_metadata_update()
        waiting.due_at = now + RETRY_SECONDS
        self._queues.setdefault(waiting.partition, deque()).appendleft(waiting)

    def _refuse(self, waiting: _Waiting, error: KafkaError) -> None:
        """The batches behind it are not sent: Kafka would take them, and so lose their order."""
        _fail(waiting, error)
        self._halt()

    def _halt(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            for waiting in queue:
                _fail(waiting, Halted())

    def _look_at(self, when: float) -> None:
        """Look again at that time, or before."""
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        self._send_due()


def _fail(waiting: _Waiting, error: KafkaError) -> None:
    if not waiting.acknowledged.done():
        waiting.acknowledged.set_exception(error)
        ask_nothing_more(waiting.acknowledged)


class Missed(Protocol):
    """What is of a topic, or of a partition."""

    #: Since when Kafka knows it no more, a time of time.monotonic; None as long as it does.
    gone_since: float | None


def is_gone(it: Missed, now: float, *, known: bool) -> bool:
    """Note whether Kafka knows it now; whether it has not for some time."""
    if known:
        it.gone_since = None
    elif it.gone_since is None:
        it.gone_since = now
    return it.gone_since is not None and now - it.gone_since > GONE_SECONDS


async def describe(client: AIOKafkaClient, topic: str) -> int:
    """See Session."""
    found = client.cluster.partitions_for_topic(topic)
    if found is not None:
        # Known from an answer about all topics, maybe: the next one is about those of this set, and forgets the others.
        client._topics.add(topic)
    else:
        client.add_topic(topic)
        # The first answer may be to a question that was on its way, and not about this topic.
        for _ in range(2):
            if not await client.force_metadata_update():
                raise NodeNotReadyError(f"no broker says whether there is a topic {topic!r}")
            if (found := client.cluster.partitions_for_topic(topic)) is not None:
                break
    return len(found or ())
