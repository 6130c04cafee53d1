"""Writing to Kafka: idempotent, acknowledged by all replicas, whole record batches per partition."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Final, Protocol, Self, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, NodeNotReadyError
from aiokafka.protocol.produce import ProduceRequest

from marty_msf.core.errors import (
    BatchTooLarge,
    BrokerRefused,
    BrokerUnavailable,
    MartyError,
    NotSent,
    PoisonBatch,
    PoisonEvent,
    TopicUnavailable,
)
from marty_msf.core.resources import kafka
from marty_msf.core.resources.kafka import BATCH_BYTES, Compression
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.diagnosis import diagnosis
from marty_msf.worker.broker.errors import RECORD_REFUSED, WRITE, forbidden_topic, missing_topic, translate
from marty_msf.worker.broker.produce_request import PromptRequest
from marty_msf.worker.broker.record_batch import RecordBatch

ACKNOWLEDGE_SECONDS: Final = 10
CONNECT_SECONDS: Final = 10
METADATA_MAX_AGE_MS: Final = 30_000
CLOSE_SECONDS: Final = 1

Partition: TypeAlias = tuple[str, int]
#: A record's tail: key, value and headers (see core.records).
Message: TypeAlias = bytes


@dataclass(frozen=True, slots=True)
class Tuning:
    """How batches are made and sent; acks are always those of all replicas in sync, and idempotence is always on."""

    #: How long a batch that is not full waits before it is sent.
    linger_ms: int = 0
    #: Of a record batch, before compression.
    batch_bytes: int = BATCH_BYTES
    compression: Compression = Compression.NONE
    connections_max_idle_ms: int = 540_000

    @classmethod
    def of(cls, producer: kafka.Producer) -> Self:
        """As a resource says."""
        return cls(producer.linger_ms, producer.batch_bytes, producer.compression)


DEFAULT_TUNING: Final = Tuning()


@dataclass(frozen=True, slots=True)
class Sent:
    """One record batch on its way."""

    topic: str
    partition: int
    records: int
    bytes: int
    acknowledged: "asyncio.Future[Any]"


class Producer(Protocol):
    """What the relay needs of a producer; tests hand in one that records its effects."""

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]: ...

    async def send(self, messages: Mapping[Partition, Sequence[Message]]) -> Sequence[Sent]: ...

    async def acknowledged(self, sent: Sequence[Sent]) -> None: ...


class _Halted(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """A batch was not sent, because one of its session failed."""


class Client(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka ships no types
    """aiokafka's producer, that sends nothing behind a batch that was refused."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._take = self._message_accumulator.drain_by_nodes
        self._message_accumulator.drain_by_nodes = self._take_unless_refused
        self._on_their_way: list[Any] = []
        self._refused = False
        self._requests: set[asyncio.Task[Any]] = set()
        self._produce = self._sender._send_produce_req
        self._sender._send_produce_req = self._produce_noted
        self._request = self.client.send
        self.client.send = self._send_request

    async def describe(self, topic: str) -> int:
        """Number of partitions, asked of the broker when it is not known yet; 0 when the topic is missing or forbidden.

        Raises NodeNotReadyError when no broker answers.
        """
        found = self._metadata.partitions_for_topic(topic)
        if found is None:
            self.client.add_topic(topic)
            # The first answer may be to a question that was on its way, and not about this topic.
            for _ in range(2):
                if not await self.client.force_metadata_update():
                    raise NodeNotReadyError(f"no broker says whether there is a topic {topic!r}")
                if (found := self._metadata.partitions_for_topic(topic)) is not None:
                    break
        return len(found or ())

    @property
    def forbidden(self) -> Collection[str]:
        """Topics of which the broker says nothing to this client, as far as it was asked."""
        return frozenset(self._metadata.unauthorized_topics)

    async def _send_request(self, node_id: int, request: Any, **named: Any) -> Any:
        if isinstance(request, ProduceRequest):
            request = PromptRequest(request)
        return await self._request(node_id, request, **named)

    async def abandon(self) -> None:
        """End without flushing: `stop` of the base class waits for a broker that may never answer."""
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

    def note(self, request: "asyncio.Task[Any]") -> None:
        """It ends with the client."""
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    async def _produce_noted(self, *given: Any) -> None:
        if (request := asyncio.current_task()) is not None:
            self.note(request)
        await self._produce(*given)

    def _take_unless_refused(self, *given: Any, **named: Any) -> Any:
        """What aiokafka sends next: nothing any more once a batch was refused.

        New data may wake its sender after a refusal and before the callbacks that tell of it have run. A broker that
        has no batch of this session yet takes one whose sequence does not begin at 0, and with it a wrong order.
        """
        self._refused = self._refused or any(_failed(batch.future) for batch in self._on_their_way)
        if self._refused:
            return {}, False
        batches, leaders_unknown = self._take(*given, **named)
        self._on_their_way = [batch for batch in self._on_their_way if not batch.future.done()]
        self._on_their_way += chain.from_iterable(found.values() for found in batches.values())
        return batches, leaders_unknown

    def halt(self) -> None:
        """Send nothing more: the broker would take the batches behind a refused one, and so lose their order."""
        if not (self._sender.sender_task.done() or self._sender.sender_task.cancelling()):
            self._sender.sender_task.add_done_callback(self._fail_rest)
            self._sender.sender_task.cancel()

    def _fail_rest(self, _: "asyncio.Future[None]") -> None:
        waiting = self._message_accumulator
        rest = [*chain.from_iterable(waiting._batches.values()), *waiting._pending_batches]
        waiting.fail_all(_Halted())
        for batch in rest:
            # Nobody may be waiting for it: asked for once, so that asyncio does not call it forgotten.
            batch._drain_waiter.exception()


def _failed(future: "asyncio.Future[Any]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None


def _not_sent(topic: str, partition: int, error: _Halted) -> Sent:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    # Nobody may be waiting for it: asked for once, so that asyncio does not call it forgotten.
    future.exception()
    return Sent(topic, partition, 0, 0, future)


class KafkaProducer:
    """One idempotent producer session. After any error it must be stopped: its sequence numbers are in doubt.

    `batch_bytes` (topic -> limit) outlives the session: it learns of topics that take smaller batches only. What is
    not acknowledged `acknowledge_seconds` after it left (what it lingers is not counted) is given up; a new session sends it
    again.
    """

    _transactional: ClassVar[bool] = False

    def __init__(
        self,
        connection: KafkaConnection,
        batch_bytes: MutableMapping[str, int],
        client_id: str = "marty-relay",
        *,
        tuning: Tuning = DEFAULT_TUNING,
        acknowledge_seconds: float = ACKNOWLEDGE_SECONDS,
    ) -> None:
        self._connection = connection
        self._acknowledge_seconds = acknowledge_seconds
        # A batch that lingers is not late yet.
        self._deadline_seconds = acknowledge_seconds + tuning.linger_ms / 1000
        self._batch_bytes = batch_bytes
        self._client_id = client_id
        self._tuning = tuning
        self._made: Client | None = None
        self._unacknowledged: set[asyncio.Future[Any]] = set()
        self._stopped = False

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailable, BrokerRefused, and leaves nothing open then."""
        try:
            self._made = self._new()
            with translate(self._connection, rights=WRITE, late=f"no connection within {CONNECT_SECONDS} s"):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._made.start()
        except BrokerUnavailable as error:
            await self.stop()
            if not isinstance(error, BrokerRefused) and (found := await diagnosis(self._connection)):
                raise found from error
            raise
        except BaseException:
            await self.stop()
            raise

    def _new(self) -> Client:
        return Client(**self._options())

    def _options(self) -> dict[str, Any]:
        tuning = self._tuning
        return {
            **self._connection.options(),
            "client_id": self._client_id,
            "enable_idempotence": True,
            "acks": "all",
            "max_batch_size": tuning.batch_bytes,
            # Our batches are bounded above; this bound only refuses single records, and the broker does that better.
            "max_request_size": 2**31 - 1,
            "linger_ms": tuning.linger_ms,
            "compression_type": None if tuning.compression is Compression.NONE else tuning.compression.value,
            "connections_max_idle_ms": tuning.connections_max_idle_ms,
            "request_timeout_ms": round(self._deadline_seconds * 1000),
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        }

    @property
    def _client(self) -> Client:
        assert self._made is not None, "the producer was not started"
        return self._made

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]:
        """Partitions of each topic; 0 for one that is missing or forbidden to us."""
        with translate(self._connection, late=self._late("no answer about its topics")):
            async with asyncio.timeout(self._deadline_seconds):
                return {topic: await self._client.describe(topic) for topic in topics}

    async def ask(self, seconds: float) -> None:
        """Ask for the topics' partitions once more, over the connections that are open. Raises BrokerUnavailable."""
        with translate(self._connection, late=f"no answer within {seconds:g} s"):
            async with asyncio.timeout(seconds):
                answered = await self._client.client.force_metadata_update()
            if not answered:
                if found := await diagnosis(self._connection):
                    raise found
                raise ConnectionError("no broker takes a connection")

    def unavailable(self, topics: Collection[str]) -> TopicUnavailable:
        """What is wrong with the topics of which `partitions` has told 0."""
        forbidden = self._client.forbidden
        says = [forbidden_topic(it, WRITE) if it in forbidden else missing_topic(it) for it in sorted(topics)]
        return TopicUnavailable("; ".join(says), topics)

    async def send(self, messages: Mapping[Partition, Sequence[Message]]) -> Sequence[Sent]:
        """Hand messages to the broker, in order per partition; returns before they are acknowledged.

        When the broker refuses a batch meanwhile, of this call or of one before, what comes behind it is not sent: the
        answer ends with a Sent of no records, NotSent. An error here would be told before the refusal.
        """
        waiting = {partition: list(self._batches(partition[0], found)) for partition, found in messages.items()}
        sent: list[Sent] = []
        with translate(self._connection, late=self._late("a batch could not be sent behind those before it")):
            async with asyncio.timeout(self._deadline_seconds):
                while waiting:
                    # One batch of each partition at a time: a partition takes the next one when its first is on its way.
                    for (topic, partition), batches in list(waiting.items()):
                        try:
                            sent.append(await self._send_batch(batches.pop(0), topic, partition))
                        except _Halted as error:
                            return [*sent, _not_sent(topic, partition, error)]
                        if not batches:
                            del waiting[topic, partition]
        return sent

    async def acknowledged(self, sent: Sequence[Sent]) -> None:
        """Wait until all replicas have the batches.

        Raises BrokerUnavailable (their fate is unknown), TopicUnavailable, PoisonEvent for one record that its topic
        refuses, PoisonBatch for several of which it refuses one, NotSent when another batch's refusal is all there is.
        """
        held_back: _Halted | None = None
        with translate(self._connection, late=self._late("no acknowledgement")):
            async with asyncio.timeout(self._deadline_seconds):
                for batch in sent:
                    with translate(self._connection, batch.topic, WRITE):
                        try:
                            await batch.acknowledged
                        except RECORD_REFUSED as error:
                            raise self._refused(batch, error) from error
                        except _Halted as error:
                            held_back = error
        if held_back is not None:
            raise NotSent("a batch was not sent, because another one was refused or given up") from held_back

    async def stop(self) -> None:
        """End, at once: what is not yet acknowledged is given up, and may still arrive."""
        if not self._stopped:
            self._stopped = True
            for future in tuple(self._unacknowledged):
                future.cancel()
            if self._made:
                await self._made.abandon()

    def _batches(self, topic: str, messages: Sequence[Message]) -> Iterable[RecordBatch]:
        tuning = self._tuning
        limit = min(self._batch_bytes.get(topic, tuning.batch_bytes), tuning.batch_bytes)
        compression = None if tuning.compression is Compression.NONE else tuning.compression.value
        while messages:
            batch = RecordBatch(limit, compression, transactional=self._transactional)
            messages = messages[batch.extend(messages) :]
            if messages:
                batch.close()  # it is full: it does not linger
            yield batch

    async def _send_batch(self, batch: RecordBatch, topic: str, partition: int) -> Sent:
        records, size = batch.record_count(), batch.size()
        if await self._client.describe(topic) <= partition:
            raise TopicUnavailable(
                f"Kafka topic {topic!r} lost its partition {partition}: was it deleted? create it again", [topic]
            )
        if not self._tuning.linger_ms:
            batch.close()
        future = await self._client.send_batch(batch, topic, partition=partition)
        self._unacknowledged.add(future)
        future.add_done_callback(self._decided)
        return Sent(topic, partition, records, size, future)

    def _late(self, what: str) -> str:
        linger_ms = self._tuning.linger_ms
        lingers = f", after {linger_ms} ms of lingering" if linger_ms else ""
        return f"{what} within {self._acknowledge_seconds:g} s ({self._connection.names.deadline}){lingers}"

    def _decided(self, future: "asyncio.Future[Any]") -> None:
        self._unacknowledged.discard(future)
        if _failed(future):
            self._client.halt()

    def _refused(self, batch: Sent, error: KafkaError) -> MartyError:
        if not isinstance(error, MessageSizeTooLargeError):
            text = f"Kafka topic {batch.topic!r} refuses {{}}: {error.description}"
            return PoisonEvent(text.format("an event")) if batch.records == 1 else PoisonBatch(text.format("a batch"))
        self._batch_bytes[batch.topic] = batch.bytes if batch.records == 1 else batch.bytes // 2
        if batch.records == 1:
            return PoisonEvent(
                f"an event of {batch.bytes} bytes is over what Kafka topic {batch.topic!r} takes: raise its "
                "max.message.bytes, or send an identifier instead of the document"
            )
        return BatchTooLarge(
            f"Kafka topic {batch.topic!r} refuses batches of {batch.bytes} bytes: smaller ones are tried now"
        )
