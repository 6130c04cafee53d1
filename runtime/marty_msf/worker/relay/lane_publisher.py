"""Publishes what a batch has of a lane in one Kafka transaction.

It carries the write to the database that follows it (core.outbox.transaction), and is committed only when the write of
the batch before is done: so at most one write of a lane is ever missing there, and whoever fences the lane finds it.

After an error nothing is mended here: all lanes are to be dropped and gained again, which settles what became of them.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from marty_msf.core.errors import (
    BrokerUnavailable,
    LeaseLost,
    MartyError,
    NotSent,
    PoisonBatch,
    PoisonEvent,
    TopicUnavailable,
)
from marty_msf.core.outbox.transaction import Note, encode, mark
from marty_msf.worker.broker.producer import Producer
from marty_msf.worker.broker.sending import Sent
from marty_msf.worker.relay.batch import ID, LANE, Encoder, Row
from marty_msf.worker.relay.flight import NOTHING, Flight, Settled
from marty_msf.worker.relay.lane_sessions import LaneSession, LaneSessions
from marty_msf.worker.relay.notes import by_lane, notes_of
from marty_msf.worker.relay.publishing import SALVAGE_SECONDS, parts
from marty_msf.worker.relay.rules import Rules
from marty_msf.worker.relay.shared import Shared

#: The write to the database behind a batch.
_Write: TypeAlias = asyncio.Future[None]


class LanePublisher:
    """A Publisher, whose every Sent is what a batch has of one lane: its partition is the lane, its topic is empty."""

    waits_for_writes = True

    def __init__(self, producer: Producer, sessions: LaneSessions, rules: Rules, shared: Shared) -> None:
        """`producer` tells about topics only."""
        self._producer = producer
        self._sessions = sessions
        self._rules = rules
        self._shared = shared
        self._encoder = Encoder(shared.database)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes: dict[Flight, _Write] = {}
        self._last_write: _Write | None = None

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]:
        """See Publisher."""
        return await self._producer.partitions(topics)

    async def send(self, flight: Flight) -> Sequence[Sent]:
        """See Publisher."""
        before, write = self._last_write, asyncio.get_running_loop().create_future()
        self._last_write = self._writes[flight] = write
        rows = by_lane(flight.rows)
        sessions = {lane: self._sessions.of(lane) for lane in rows}
        notes = notes_of(flight, rows, {lane: session.history for lane, session in sessions.items()})
        sent = []
        for lane, session in sessions.items():
            task = asyncio.create_task(self._publish(flight, session, rows[lane], notes[lane], before, write))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            sent.append(Sent("", lane, len(rows[lane]), 0, task))
        return sent

    async def acknowledged(self, sent: Sequence[Sent]) -> None:
        """Wait until all of the transactions have ended. Raises what says most of why one was not committed."""
        if sent:
            await asyncio.wait([it.acknowledged for it in sent])
        if errors := [error for it in sent if (error := _error(it.acknowledged)) is not None]:
            raise min(errors, key=_rank)

    async def salvage(self, flights: Sequence[Flight]) -> Sequence[tuple[Flight, Settled]]:
        """Lanes that were refused something stay where they were, and so do batches behind the first one."""
        if not flights:
            return []
        first, sent = flights[0], flights[0].sent or ()
        if waiting := [it.acknowledged for it in sent]:
            await asyncio.wait(waiting, timeout=SALVAGE_SECONDS)
        committed = {it.partition for it in sent if it.acknowledged.done() and not _error(it.acknowledged)}
        return [(first, first.settled(NOTHING, {}).without({row[LANE] for row in first.rows} - committed))]

    def stored(self, flights: Collection[Flight]) -> None:
        """See Publisher."""
        for flight in flights:
            if (write := self._writes.pop(flight, None)) is not None and not write.done():
                write.set_result(None)

    def forget(self) -> None:
        """See Publisher."""
        for task in self._tasks:
            task.cancel()
        self._writes.clear()
        self._last_write = None

    def restart(self, producer: Producer) -> None:
        """See Publisher."""
        self._producer = producer

    async def _publish(
        self,
        flight: Flight,
        session: LaneSession,
        rows: Sequence[Row],
        note: Note,
        before: _Write | None,
        write: _Write,
    ) -> None:
        sent: list[Sent] = []

        async def text() -> str:
            if before is not None:
                await asyncio.shield(before)
            return encode(replace(note, base=mark(flight.lanes[session.lane].stored))) or ""

        try:
            messages = self._encoder.encode(rows, flight.partitions)
            await self._sessions.transact(session, messages, text, sent)
        except BaseException as error:
            if not write.done():
                write.set_exception(NotSent("a transaction of the batch before was not committed"))
                # Nobody may be waiting for it: asked for once, so that asyncio does not call it forgotten.
                write.exception()
            self._learn(error, rows, flight, sent)
            raise

    def _learn(self, error: BaseException, rows: Sequence[Row], flight: Flight, sent: Sequence[Sent]) -> None:
        """What may be refused is held next time, and tried alone; the rest of its transaction goes again without it."""
        if isinstance(error, PoisonEvent | PoisonBatch):
            for part, its in parts(self._encoder, rows, flight.partitions, sent):
                if _error(part.acknowledged) is not None:
                    self._shared.suspect.update(row[ID] for row in its)
        elif isinstance(error, TopicUnavailable):
            for topic in error.topics:
                self._shared.miss(topic, self._rules.unusable_seconds(error))

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        # Nobody may be waiting for it any more.
        _error(task)


def _error(future: "asyncio.Future[Any]") -> BaseException | None:
    if not future.done():
        return None
    return LeaseLost("the transaction was given up") if future.cancelled() else future.exception()


def _rank(error: BaseException) -> int:
    """A bug first, then what ends the ownership, then what ends all sessions."""
    if not isinstance(error, MartyError):
        return 0
    if isinstance(error, LeaseLost):
        return 1
    return 4 if isinstance(error, NotSent) else 2 if isinstance(error, BrokerUnavailable) else 3
