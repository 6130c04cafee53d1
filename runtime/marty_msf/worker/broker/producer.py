"""Writing to Kafka: idempotent, acknowledged by all replicas, whole record batches per partition."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, Final, Protocol

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

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
from marty_msf.core.resources.kafka import Compression
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.diagnosis import diagnosis
from marty_msf.worker.broker.errors import RECORD_REFUSED, WRITE, forbidden_topic, missing_topic, translate
from marty_msf.worker.broker.record_batch import RecordBatch
from marty_msf.worker.broker.sending import (
    DEFAULT_TUNING,
    Halted,
    Message,
    Partition,
    Sent,
    Session,
    Tuning,
)
from marty_msf.worker.broker.session import ProduceSession
from marty_msf.worker.groups import to_its_end

ACKNOWLEDGE_SECONDS: Final = 10
CONNECT_SECONDS: Final = 10
METADATA_MAX_AGE_MS: Final = 30_000


class Producer(Protocol):
    """What the relay needs of a producer; tests hand in one that records its effects."""

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]: ...

    async def send(self, messages: Mapping[Partition, Sequence[Message]]) -> Sequence[Sent]: ...

    async def acknowledged(self, sent: Sequence[Sent]) -> None: ...


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
        self._made: Session | None = None
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

    def _new(self) -> Session:
        return ProduceSession(self._options(), self._tuning.linger_ms / 1000)

    def _options(self) -> dict[str, Any]:
        return {
            **self._connection.options(),
            "client_id": self._client_id,
            "connections_max_idle_ms": self._tuning.connections_max_idle_ms,
            "request_timeout_ms": round(self._deadline_seconds * 1000),
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        }

    @property
    def _session(self) -> Session:
        assert self._made is not None, "the producer was not started"
        return self._made

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]:
        """Partitions of each topic; 0 for one that is missing or forbidden to us.

        Raises BrokerUnavailable, at once behind `stop`.
        """
        if self._stopped:
            raise BrokerUnavailable("the producer was stopped, and says nothing of topics: make a new one")
        with translate(self._connection, late=self._late("no answer about its topics")):
            async with asyncio.timeout(self._deadline_seconds):
                return {topic: await self._session.describe(topic) for topic in topics}

    async def ask(self, seconds: float) -> None:
        """Ask for the topics' partitions once more, over the connections that are open. Raises BrokerUnavailable."""
        with translate(self._connection, late=f"no answer within {seconds:g} s"):
            async with asyncio.timeout(seconds):
                answered = await self._session.refresh()
            if not answered:
                if found := await diagnosis(self._connection):
                    raise found
                raise ConnectionError("no broker takes a connection")

    def unavailable(self, topics: Collection[str]) -> TopicUnavailable:
        """What is wrong with the topics of which `partitions` has told 0."""
        forbidden = self._session.forbidden
        says = [forbidden_topic(it, WRITE) if it in forbidden else missing_topic(it) for it in sorted(topics)]
        return TopicUnavailable("; ".join(says), topics)

    async def send(self, messages: Mapping[Partition, Sequence[Message]]) -> Sequence[Sent]:
        """Hand messages to the broker, in order per partition; returns before they are acknowledged.

        When the broker refuses a batch meanwhile, of this call or of one before, what comes behind it is not sent:
        `acknowledged` says NotSent of it. An error here would be told before the refusal. Raises TopicUnavailable when a
        topic lost a partition.
        """
        batches: dict[Partition, Sequence[RecordBatch]] = {}
        with translate(self._connection, late=self._late("a batch could not be sent behind those before it")):
            async with asyncio.timeout(self._deadline_seconds):
                for (topic, number), found in messages.items():
                    if await self._session.describe(topic) <= number:
                        raise TopicUnavailable(
                            f"Kafka topic {topic!r} lost its partition {number}: was it deleted? create it again",
                            [topic],
                        )
                    batches[topic, number] = list(self._batches(topic, found))
                return await self._session.post(batches)

    async def acknowledged(self, sent: Sequence[Sent]) -> None:
        """Wait until all replicas have the batches.

        Raises BrokerUnavailable (their fate is unknown), TopicUnavailable, PoisonEvent for one record that its topic
        refuses, PoisonBatch for several of which it refuses one, NotSent when another batch's refusal is all there is.
        """
        held_back: Halted | None = None
        with translate(self._connection, late=self._late("no acknowledgement")):
            async with asyncio.timeout(self._deadline_seconds):
                for batch in sent:
                    with translate(self._connection, batch.topic, WRITE):
                        try:
                            # Shielded: somebody else may wait for it, too.
                            await asyncio.shield(batch.acknowledged)
                        except RECORD_REFUSED as error:
                            raise self._refused(batch, error) from error
                        except Halted as error:
                            held_back = error
        if held_back is not None:
            raise NotSent("a batch was not sent, because another one was refused or given up") from held_back

    async def stop(self) -> None:
        """End, at once: what is not yet acknowledged is given up, and may still arrive."""
        if not self._stopped:
            self._stopped = True
            if self._made:
                # As a whole: nobody comes back for the rest.
                await to_its_end(self._made.abandon())

    def _batches(self, topic: str, messages: Sequence[Message]) -> Iterable[RecordBatch]:
        tuning = self._tuning
        limit = min(self._batch_bytes.get(topic, tuning.batch_bytes), tuning.batch_bytes)
        compression = None if tuning.compression is Compression.NONE else tuning.compression.value
        while messages:
            batch = RecordBatch(limit, compression, transactional=self._transactional)
            messages = messages[batch.extend(messages) :]
            if messages or not tuning.linger_ms:
                batch.close()  # a full one does not linger
            yield batch

    def _late(self, what: str) -> str:
        linger_ms = self._tuning.linger_ms
        lingers = f", after {linger_ms} ms of lingering" if linger_ms else ""
        return f"{what} within {self._acknowledge_seconds:g} s ({self._connection.names.deadline}){lingers}"

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
