"""Sends commands: those whose replies are there already are answered instead, the others leave in record batches.

Kafka being away, or a topic missing, costs no call an attempt: its command waits here until it can be sent.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import asyncpg

from marty_msf.core.errors import BrokerUnavailable, ExpressionError, PoisonEvent, TopicUnavailable
from marty_msf.core.partitioning import Partitioner
from marty_msf.core.records import tail
from marty_msf.core.saga.command import Command, command
from marty_msf.core.saga.events import Misconfigured
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import saga_reply
from marty_msf.store.database import translate
from marty_msf.store.saga_reply import CallKey
from marty_msf.worker.backoff import pause
from marty_msf.worker.board import Board, reason_of
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.broker.sending import Message, Partition, Sent
from marty_msf.worker.ownership import any_of
from marty_msf.worker.saga import tracing
from marty_msf.worker.saga.messaging.commands import Commands, Open

#: Commands of one pass: bounds its memory, and how long one waits for the acknowledgement of those before.
SEND_LIMIT: Final = 500
RETRY_SECONDS: Final = 1.0
#: How soon a topic that was missing is looked for again.
TOPIC_SECONDS: Final = 2.0


class CommandSender:
    """Empties the queue of `commands` into Kafka. One `run` per object."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        resource: str,
        connection: KafkaConnection,
        commands: Commands,
        board: Board,
        client_id: str,
    ) -> None:
        self._pool = pool
        self._resource = resource
        self._connection = connection
        self._commands = commands
        self._board = board
        self._client_id = client_id
        self._partitioner = Partitioner()
        self._batch_bytes: dict[str, int] = {}
        #: Calls one of whose topics is missing, and these topics.
        self._waiting: list[Open] = []
        self._missing: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`. Raises DatabaseUnavailable; Kafka's absence is waited out."""
        while not stop.is_set():
            if not len(self._commands):
                await any_of(stop, self._commands.queued)
                continue
            producer = KafkaProducer(self._connection, self._batch_bytes, self._client_id)
            try:
                await producer.start()
                await self._serve(producer, stop)
            except (BrokerUnavailable, TopicUnavailable) as error:
                self._board.report(reason_of(error), str(error), blocking=False, unmet=True)
                await pause(stop, RETRY_SECONDS)
            except PoisonEvent:
                # One command was too large and is settled; after any error the session is over.
                continue
            finally:
                await producer.stop()

    async def _serve(self, producer: KafkaProducer, stop: asyncio.Event) -> None:
        """One session of the producer."""
        self._board.clear(ProblemReason.BROKER_UNAVAILABLE)
        while not stop.is_set():
            await self.run_once(producer)
            if self._commands.queued.is_set():
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(TOPIC_SECONDS if self._waiting else None):
                    await any_of(stop, self._commands.queued)
            waiting, self._waiting = self._waiting, []
            self._commands.put_back(waiting)

    async def run_once(self, producer: KafkaProducer) -> int:
        """Send what is in the queue, up to a limit; returns how many commands Kafka has taken.

        Raises BrokerUnavailable, TopicUnavailable or PoisonEvent; what Kafka has not taken is in the queue again.
        """
        taken = self._commands.take(SEND_LIMIT)
        try:
            await self._answer_known([it for it in taken if not it.call.first])
            partitions = await producer.partitions(
                sorted({topic for it in taken for topic in (it.form.command_topic, it.form.reply_topic)})
            )
        except BaseException:
            self._commands.put_back(taken)
            raise
        lanes: dict[Partition, list[tuple[Open, Message]]] = {}
        for it in self._possible(taken, partitions):
            made = self._made(it)
            if made is not None:
                place = (made.topic, self._partitioner.partition(made.key, partitions[made.topic]))
                lanes.setdefault(place, []).append((it, tail(made.key, made.value, made.headers)))
        return await self._send(producer, lanes) if lanes else 0

    async def _answer_known(self, repeated: Sequence[Open]) -> None:
        """Calls that may have been made before, by whoever: some have their replies already."""
        if not repeated:
            return
        calls: list[CallKey] = [(it.live.id, it.key.partition(":")[2]) for it in repeated]
        with translate():
            async with self._pool.acquire() as conn:
                for received in await saga_reply.final(conn, calls):
                    self._commands.answer(received)

    def _possible(self, taken: Sequence[Open], partitions: Mapping[str, int]) -> list[Open]:
        """The open ones whose topics are there; the others wait. A command without a way back would be in vain."""
        self._missing -= partitions.keys()
        self._missing |= {topic for topic, count in partitions.items() if not count}
        possible: list[Open] = []
        for it in taken:
            if self._commands.is_open(it):
                waits = it.form.command_topic in self._missing or it.form.reply_topic in self._missing
                (self._waiting if waits else possible).append(it)
        if self._missing:
            names = ", ".join(map(repr, sorted(self._missing)))
            self._board.report(
                ProblemReason.TOPIC_UNAVAILABLE,
                f"Kafka has no topic {names}, or it is forbidden: create it or grant the rights; the calls that need it wait",
                blocking=False,
                unmet=True,
            )
        else:
            self._board.clear(ProblemReason.TOPIC_UNAVAILABLE)
        return possible

    def _made(self, it: Open) -> Command | None:
        live, step = it.live, it.call.step
        try:
            return command(
                it.form,
                resource=self._resource,
                saga_id=live.text,
                action=live.definition.url_path(step, undo=it.call.undo),
                idempotency_key=it.key,
                body=live.bodies[step],
                traceparent=tracing.of_message(
                    it.form.command_topic, live.text, live.definition.steps[step].name, live.traceparent
                ),
            )
        except ExpressionError as error:
            self._commands.settle(it, Misconfigured(str(error)))
            return None

    async def _send(self, producer: KafkaProducer, lanes: Mapping[Partition, Sequence[tuple[Open, Message]]]) -> int:
        rest = {place: [it for it, _ in found] for place, found in lanes.items()}
        try:
            for found in rest.values():
                for it in found:
                    # Before the bytes leave: a reply may be back before their acknowledgement.
                    self._commands.sent(it)
            batches = await producer.send({place: [message for _, message in found] for place, found in lanes.items()})
            for batch in batches:
                await self._acknowledged(producer, batch, rest[batch.topic, batch.partition])
        finally:
            self._commands.put_back([it for found in rest.values() for it in found])
        return sum(map(len, lanes.values()))

    async def _acknowledged(self, producer: KafkaProducer, batch: Sent, waiting: list[Open]) -> None:
        """Take the batch's calls off `waiting` when their fate is decided."""
        try:
            await producer.acknowledged([batch])
        except PoisonEvent:
            if self._commands.is_open(waiting[0]):
                self._commands.settle(waiting[0], Misconfigured(_too_large(batch)))
            del waiting[0]
            raise
        del waiting[: batch.records]


def _too_large(batch: Sent) -> str:
    return (
        f"its command of {batch.bytes} bytes is over what Kafka topic {batch.topic} takes:"
        " raise its max.message.bytes, then resume"
    )
