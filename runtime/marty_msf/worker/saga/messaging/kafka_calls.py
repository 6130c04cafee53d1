"""Calls over Kafka as a whole: commands out, replies in, time-outs; and which reply topics are read."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from marty_msf.core.saga.calling import KafkaCall
from marty_msf.core.saga.definition import Definition
from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.backoff import pause
from marty_msf.worker.board_shares import Share, Shares
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.kafka_input import KafkaInput
from marty_msf.worker.ownership import any_of
from marty_msf.worker.role import Context
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.definitions import Definitions
from marty_msf.worker.saga.memory import Live, Memory
from marty_msf.worker.saga.messaging.command_sender import CommandSender
from marty_msf.worker.saga.messaging.commands import Commands
from marty_msf.worker.saga.messaging.parked_events import ParkedEvents
from marty_msf.worker.saga.messaging.replies import Replies
from marty_msf.worker.saga.messaging.reply_look import ReplyLook

#: Scope of the positions and leases of reply topics: `saga-replies:<resource>`.
ROLE: Final = "saga-replies"
#: How soon the reply topics of an earlier definition are read, once an instance that follows it is here.
FOLLOW_SECONDS: Final = 1.0


class KafkaCalls:
    """The calls over Kafka of one saga in this process. One `run` per object."""

    def __init__(self, context: Context, connection: KafkaConnection, definitions: Definitions, shares: Shares) -> None:
        """`shares` is the board that other readers of Kafka in this process report to as well."""
        self._context = context
        self._connection = connection
        self._definitions = definitions
        self._reading = shares.share()
        self._sending = shares.share()
        self._away_ms = 0
        #: Where the engine hands its calls over Kafka to.
        self.commands = Commands(self._last_away)

    async def run(
        self, memory: Memory, parked: ParkedEvents, hasten: Callable[[Live, int], None], stop: asyncio.Event
    ) -> None:
        """Send, read and answer until `stop`. Raises DatabaseUnavailable; Kafka's problems are waited out."""
        while not stop.is_set() and not self._topics(memory):
            await pause(stop, FOLLOW_SECONDS)
        context = self._context
        sender = CommandSender(
            context.pool, context.resource, self._connection, self.commands, self._sending, context.holder
        )
        look = ReplyLook(context.pool, context.resource, context.holder, self.commands, memory, hasten)
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(sender.run(stop))
                tasks.create_task(look.run(stop))
                tasks.create_task(self._time_out(stop))
                tasks.create_task(self._read(memory, parked, look, stop))
        except BaseExceptionGroup as group:
            raise first_error(group) from group

    async def _time_out(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.commands.timed.clear()
            wait_ms = self.commands.expire()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                    await any_of(stop, self.commands.timed)

    async def _read(self, memory: Memory, parked: ParkedEvents, look: ReplyLook, stop: asyncio.Event) -> None:
        """Read the reply topics of the present definition, and of those that instances here still follow."""
        while not stop.is_set():
            topics = self._topics(memory)
            if not topics:
                await pause(stop, FOLLOW_SECONDS)
                continue
            changed = asyncio.Event()
            kafka = KafkaInput(
                replace(self._context, board=self._reading),
                role=ROLE,
                connection=self._connection,
                topics=sorted(topics),
                blocking=False,
            )
            replies = Replies(
                self._context.pool, kafka, self._definitions, parked, self._context.resource, look.arrived
            )
            async with TaskGroup() as tasks:
                tasks.create_task(kafka.run(changed))
                tasks.create_task(replies.run(changed))
                while not stop.is_set() and self._topics(memory) == topics:
                    self._last_away()
                    await pause(stop, FOLLOW_SECONDS)
                changed.set()
            # What this reader said of its topics is not known of the next one's.
            self._reading.clear()

    def _topics(self, memory: Memory) -> frozenset[str]:
        present = reply_topics(self._definitions.current)
        earlier = {it.revision: more for it in self._definitions.known if (more := reply_topics(it) - present)}
        # Instances are counted only where it matters: they may be many.
        followed = memory.by_revision() if earlier else {}
        return present.union(*(topics for revision, topics in earlier.items() if revision in followed))

    def _last_away(self) -> int:
        """When Kafka was last known to be away (milliseconds since 1970); now, when it is."""
        if any(_away(share) for share in (self._reading, self._sending)):
            self._away_ms = now_ms()
        return self._away_ms


def reply_topics(definition: Definition) -> frozenset[str]:
    """Where replies to the commands of a definition come."""
    return frozenset(step.call.reply_topic for step in definition.steps if isinstance(step.call, KafkaCall))


def _away(share: Share) -> bool:
    return any(problem.reason is ProblemReason.BROKER_UNAVAILABLE for problem in share.current())
