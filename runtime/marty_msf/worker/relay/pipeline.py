"""The relay's loop: read a window, send it, and write the position once Kafka has it; the next read overlaps the acks.

Order: rows of a window are sent in id order by one producer session, a batch's position is written only after all of
its acknowledgements and after the positions of the batches before it. After any doubt everything unacknowledged is sent
again in the same order. A crash between acknowledgement and position repeats events with the same ids, never loses one.

A lane with an event for a missing or forbidden topic, or with one that is too large for its topic, waits by itself with
its position; the other lanes go on. Only the broker knows what is too large, and its refusal ends the producer session:
what it acknowledged is marked first, up to the refused event, so that trying it again sends nothing twice.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import asyncpg

from marty_msf.core.errors import BrokerUnavailable, PoisonEvent, TopicUnavailable
from marty_msf.core.windows import Position
from marty_msf.store import outbox_position
from marty_msf.store.database import translate
from marty_msf.worker.broker.producer import Producer, Sent
from marty_msf.worker.groups import TaskGroup, first_error, to_its_end
from marty_msf.worker.relay.batch import ID, LANE, Batch, Encoder, Settled, split
from marty_msf.worker.relay.reading import Reading, read

#: Batches sent and not yet settled at most; a crash repeats at most these.
IN_FLIGHT: Final = 8
#: After a refusal, the wait for the acknowledgements of what was on its way; longer than the producer itself waits.
SALVAGE_SECONDS: Final = 12


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did."""

    #: Events acknowledged whose position was written.
    published: int
    #: Whether nothing was found, sent or settled: there is nothing to do now.
    idle: bool
    #: Lanes that wait for a topic, until `unblock`.
    blocked: int
    #: The topics they wait for, until one is seen to be there.
    missing_topics: Collection[str]
    #: Why lanes wait whose next event is too large, until it is published.
    refused: Collection[PoisonEvent] = ()
    #: The producer's session is over: call `restart`.
    spoiled: bool = False


@dataclass(eq=False, slots=True)
class _Lane:
    """One time of holding a lane; compared by identity, so that what was read under an earlier time writes nothing."""

    epoch: int
    #: Position in the database.
    stored: Position
    #: Behind what was sent.
    sent: Position
    #: Behind what was read.
    read: Position
    #: Takes no new events: it is being handed back.
    draining: bool = False
    blocked: bool = False


@dataclass(eq=False, slots=True)
class _Flight:
    """A batch being handed, or handed, to the producer."""

    batch: Batch
    lanes: Mapping[int, _Lane]
    #: Number of partitions of each topic.
    partitions: Mapping[str, int]
    #: None while it is being handed over.
    sent: Sequence[Sent] | None = None


@dataclass(slots=True)
class _Work:
    """Everything between the outbox and the stored position."""

    ready: deque[Batch] = field(default_factory=deque)
    flights: deque[_Flight] = field(default_factory=deque)


class Relay:
    """Publishes the lanes it is given (a LaneUser). One task calls `run_once`; LaneOwner calls the rest."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        producer: Producer,
        *,
        scope: str,
        holder: str,
        resource: str,
        database: str,
        batch_size: int,
        prefetch: int,
    ) -> None:
        self._pool = pool
        self._producer = producer
        self._scope = scope
        self._holder = holder
        self._resource = resource
        self._batch_size = batch_size
        self._prefetch = prefetch
        self._encoder = Encoder(database)
        self._lanes: dict[int, _Lane] = {}
        self._work = _Work()
        self._missing: set[str] = set()
        #: Lane -> why its next event is refused.
        self._refused: dict[int, PoisonEvent] = {}
        self._spoiled = False
        self._settled = asyncio.Condition()

    async def gained(self, epochs: Mapping[int, int]) -> None:
        """Load where these lanes stand."""
        with translate():
            async with self._pool.acquire() as conn:
                positions = await outbox_position.load(conn, sorted(epochs))
        for lane, position in positions.items():
            self._lanes[lane] = _Lane(epochs[lane], position, position, position)

    async def drain(self, lanes: Sequence[int]) -> None:
        """Read nothing more for these lanes; returns once nothing of them is in flight."""
        mine = {lane: self._lanes[lane] for lane in lanes if lane in self._lanes}
        for state in mine.values():
            state.draining = True
        self._drop_ready(mine.keys())
        async with self._settled:
            await self._settled.wait_for(
                lambda: not any(flight.lanes.keys() & mine.keys() for flight in self._work.flights)
            )
        for lane, state in mine.items():
            if self._lanes.get(lane) is state:
                del self._lanes[lane]
                self._refused.pop(lane, None)
        self._missing.clear()  # what is still ours is noticed again

    def dropped(self, lanes: Sequence[int]) -> None:
        """Forget these lanes; what is in flight of them writes no position."""
        for lane in lanes:
            self._lanes.pop(lane, None)
            self._refused.pop(lane, None)
        self._missing.clear()  # what is still ours is noticed again
        self._drop_ready(set(lanes))

    async def restart(self, producer: Producer) -> None:
        """After an error of the broker: send with a new producer, from the stored positions on."""
        self._producer = producer
        self._spoiled = False
        await self.forget()

    async def forget(self) -> None:
        """Forget what was read or sent and not settled: the stored positions are where everything goes on."""
        self._missing.clear()
        for lane, state in self._lanes.items():
            state.blocked = lane in self._refused
            state.sent = state.read = state.stored
        async with self._settled:
            self._work = _Work()
            self._settled.notify_all()

    def unblock(self) -> None:
        """Try the lanes again that wait for a topic or for its limit."""
        for state in self._lanes.values():
            state.blocked = False

    async def run_once(self) -> Pass:
        """One step of the pipeline: settle what was sent before, send what is ready and read on, all at once.

        Raises BrokerUnavailable, TopicUnavailable (call `restart` before the next pass), LeaseLost (no position was
        written; call `forget`, the lanes must be loaded again) and DatabaseUnavailable.
        """
        try:
            async with TaskGroup() as tasks:
                reading = tasks.create_task(self._read()) if len(self._work.ready) < IN_FLIGHT else None
                moving = tasks.create_task(self._move(reading))
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        found = reading is not None and reading.result()
        moved, published = moving.result()
        if self._spoiled:
            await self.forget()
        idle = not (found or moved or self._work.flights)
        blocked = sum(state.blocked for state in self._lanes.values())
        if idle and not blocked:
            self._missing.clear()
            self._refused.clear()
        return Pass(
            published=published,
            idle=idle,
            blocked=blocked,
            missing_topics=frozenset(self._missing),
            refused=tuple(self._refused.values()),
            spoiled=self._spoiled,
        )

    async def finish(self) -> int:
        """Settle everything in flight, in order; returns the number of events published."""
        published = 0
        while self._work.flights:
            published += await self._settle()
            if self._spoiled:
                published += await self._salvage()
                await self.forget()
        return published

    @property
    def lanes(self) -> Collection[int]:
        """The lanes being published now."""
        return self._lanes.keys()

    async def _read(self) -> bool:
        """Read the next window, or the next part of an open one; False when nothing new is to be seen."""
        states = {lane: state for lane, state in self._lanes.items() if not (state.draining or state.blocked)}
        if not states:
            return False
        with translate():
            async with self._pool.acquire() as conn:
                found = await read(conn, {lane: state.read for lane, state in states.items()}, self._prefetch)
        was_open = any(states[lane].read.next is not None for lane in found.after)
        self._take(found, {lane: states[lane] for lane in found.after})
        # Closing a window is progress too: the next one may have rows.
        return was_open or bool(found.rows)

    def _take(self, found: Reading, states: Mapping[int, _Lane]) -> None:
        """Queue what was read, but for lanes that were lost, drained or blocked meanwhile."""
        gone = {
            lane
            for lane, state in states.items()
            if self._lanes.get(lane) is not state or state.draining or state.blocked
        }
        for lane in states.keys() - gone:
            states[lane].read = found.after[lane]
        batches = split(found.rows, found.start, found.after, self._batch_size)
        self._work.ready.extend(part for part in (batch.without(gone) for batch in batches) if part.rows)

    async def _move(self, reading: "asyncio.Task[bool] | None") -> tuple[bool, int]:
        """Settle and send, side by side, until the read is back: (whether there was anything, events published)."""
        moved, published = False, 0
        while self._work.flights or self._work.ready:
            moved = True
            async with TaskGroup() as tasks:
                settling = tasks.create_task(self._settle()) if self._work.flights else None
                if self._work.ready:
                    tasks.create_task(self._send_ready(settling))
            published += settling.result() if settling else 0
            if self._spoiled:
                published += await self._salvage()
                break
            if reading is None or reading.done():
                break
        return moved, published

    async def _send_ready(self, settling: "asyncio.Task[int] | None") -> None:
        """Send what is ready; while a position is being written there is time to send more than one batch."""
        while not self._spoiled and len(self._work.flights) < IN_FLIGHT and await self._send():
            if settling is None or settling.done():
                return

    async def _send(self) -> bool:
        """Hand the next ready batch to the producer; False when there is none."""
        partitions: dict[str, int] = {}
        while self._work.ready and (unknown := self._work.ready[0].topics() - partitions.keys()):
            partitions.update(await self._producer.partitions(unknown))
        self._missing.difference_update(topic for topic, count in partitions.items() if count)
        if not self._work.ready:
            return False
        if missing := {topic for topic in self._work.ready[0].topics() if not partitions[topic]}:
            self._block(missing)
            return True
        batch = self._work.ready.popleft()
        # Before the first byte leaves: who drains a lane must wait for this batch.
        flight = _Flight(batch, {lane: self._lanes[lane] for lane in batch.after}, partitions)
        self._work.flights.append(flight)
        for lane, state in flight.lanes.items():
            state.sent = batch.after[lane]
        flight.sent = await self._producer.send(self._encoder.encode(batch.rows, partitions))
        return True

    def _block(self, topics: set[str]) -> None:
        """Let the lanes with events for these topics wait where they are; their neighbours go on."""
        self._missing |= topics
        lanes = self._work.ready[0].lanes_of(topics)
        for lane in lanes:
            state = self._lanes[lane]
            state.blocked = True
            state.read = state.sent
        self._drop_ready(lanes)

    def _drop_ready(self, lanes: Collection[int]) -> None:
        gone = frozenset(lanes)
        kept = (batch.without(gone) for batch in self._work.ready)
        self._work.ready = deque(batch for batch in kept if batch.after)

    async def _settle(self) -> int:
        """Wait for the oldest batch's acknowledgements and write the position behind it and behind all done after it."""
        work = self._work
        done: list[_Flight] = []
        for flight in tuple(work.flights):
            if flight.sent is None or (done and not all(sent.acknowledged.done() for sent in flight.sent)):
                break
            try:
                await self._producer.acknowledged(flight.sent)
            except PoisonEvent:
                self._spoiled = True
                break
            done.append(flight)
        published = await self._store([(flight, flight.batch.all_settled()) for flight in done])
        async with self._settled:
            for _ in done:
                work.flights.popleft()
            self._settled.notify_all()
        return published

    async def _salvage(self) -> int:
        """After a refusal: mark what was acknowledged, up to the first event of each lane that was not."""
        flights = tuple(self._work.flights)
        if waiting := [sent.acknowledged for flight in flights for sent in flight.sent or ()]:
            await asyncio.wait(waiting, timeout=SALVAGE_SECONDS)
        stopped: set[int] = set()
        done: list[tuple[_Flight, Settled]] = []
        refused: dict[int, PoisonEvent] = {}
        for flight in flights:
            lost = await self._lost(flight, refused)
            settled = flight.batch.settled(lost)
            done.append((flight, settled.without(stopped)))
            stopped |= settled.stopped
        published = await self._store(done)
        self._refused.update((lane, error) for lane, error in refused.items() if lane in self._lanes)
        return published

    async def _lost(self, flight: _Flight, refused: dict[int, PoisonEvent]) -> set[int]:
        """Ids of the rows that are not acknowledged; lanes whose event is too large are added to `refused`."""
        lost = {row[ID] for row in flight.batch.rows}
        rows = {tp: iter(part) for tp, part in self._encoder.placed(flight.batch.rows, flight.partitions).items()}
        for sent in flight.sent or ():
            part = list(islice(rows[sent.topic, sent.partition], sent.records))
            if not sent.acknowledged.done():
                continue
            try:
                await self._producer.acknowledged([sent])
            except PoisonEvent as error:
                refused.setdefault(part[0][LANE], error)
            except (BrokerUnavailable, TopicUnavailable):
                continue
            else:
                lost.difference_update(row[ID] for row in part)
        return lost

    async def _store(self, done: Sequence[tuple[_Flight, Settled]]) -> int:
        """Write the positions behind acknowledged batches for the lanes that are still ours since they were read."""
        lanes: dict[int, _Lane] = {}
        positions: dict[int, Position] = {}
        published: dict[int, int] = {}
        for flight, settled in done:
            for lane, position in settled.positions.items():
                state = flight.lanes[lane]
                if self._lanes.get(lane) is state:
                    lanes[lane] = state
                    positions[lane] = position
                    published[lane] = published.get(lane, 0) + settled.published.get(lane, 0)
        if not lanes:
            return 0
        # An error of the broker cancels what goes on beside it: a position that is stored and not remembered would let
        # its events be sent, and counted, once more.
        await to_its_end(self._write(lanes, positions, published))
        return sum(published.values())

    async def _write(
        self, lanes: Mapping[int, _Lane], positions: Mapping[int, Position], published: Mapping[int, int]
    ) -> None:
        epochs = {lane: state.epoch for lane, state in lanes.items()}
        with translate():
            async with self._pool.acquire() as conn:
                await outbox_position.store(
                    conn, self._scope, self._holder, self._resource, epochs, positions, published
                )
        for lane, state in lanes.items():
            state.stored = positions[lane]
            if published[lane]:
                self._refused.pop(lane, None)
