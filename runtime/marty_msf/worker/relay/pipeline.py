"""The relay's loop: read a window, send it, and read on while Kafka acknowledges it and its position is written (`settling`).

Order: rows of a window are sent in id order by one producer session, a batch's position is written only after all of
its acknowledgements and after the positions of the batches before it. After any doubt everything unacknowledged is sent
again in the same order. A crash between acknowledgement and position repeats events with the same ids, never loses one.

The position never waits for a single event: what cannot be sent now (its topic is missing, its time has not come, Kafka
refuses it, or an event of its aggregate before it is held) is taken over by `marty.outbox_held` in the transaction that
moves the position past it; `held_sender` sends it later. Only the broker knows what it refuses, and its refusal ends the
producer session: what it acknowledged is marked first, lane by lane up to the first event that it did not; what Kafka has
of a lane behind that one comes again.

While more is waiting than one read brings, urgent events go out before older ones, each behind what is waiting of its
aggregate (`urgent`).
"""

import asyncio
import time
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from marty_msf.core.outbox.batch_size import BatchSize
from marty_msf.store import outbox_held, outbox_position
from marty_msf.store.database import translate
from marty_msf.worker.broker.producer import Producer
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.relay.adopting import Who
from marty_msf.worker.relay.batch import ID, LANE, Batch, split
from marty_msf.worker.relay.choosing import choose
from marty_msf.worker.relay.flight import NOTHING, Flight, Lane, gone
from marty_msf.worker.relay.publishing import Publisher, SessionPublisher
from marty_msf.worker.relay.reading import Connections, Reading, read
from marty_msf.worker.relay.rules import Rules
from marty_msf.worker.relay.settling import Settler
from marty_msf.worker.relay.shared import Shared
from marty_msf.worker.relay.urgent import Urgent
from marty_msf.worker.relay.work import Work

#: After a read that found nothing, before the next one, while something is on its way: it doubles from the first to the
#: last, unless what is on its way is written down before.
FIRST_LOOK_SECONDS: Final = 0.001
LAST_LOOK_SECONDS: Final = 0.032
#: After a read of all there was, before the next one, in reads: the more events it found, the more the next one will find, and
#: what reads and sends cost is shared by them. A thin stream is read nearly at once.
REST_AN_EVENT: Final = 0.5
LONGEST_REST: Final = 2.0
LONGEST_REST_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did."""

    #: Events acknowledged whose position was written.
    published: int
    #: Whether nothing was found, sent or settled: there is nothing to do now.
    idle: bool
    #: Lanes that wait, because too much of them is held.
    blocked: int = 0
    #: The producer's session is over: call `restart`.
    spoiled: bool = False


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
        rules: Rules,
        shared: Shared,
        limits: MutableMapping[str, int],
        publisher: Publisher | None = None,
        connections: Connections | None = None,
    ) -> None:
        """`publisher` in place of one session of `producer` for all lanes; `connections` for reads in place of the pool's."""
        self._pool = pool
        self._connections = connections or pool.acquire
        self._publisher: Publisher = publisher or SessionPublisher(producer, rules, shared)
        self._rules = rules
        self._shared = shared
        self._limits = limits
        self._size = BatchSize(
            rules.batch_size, rules.prefetch, adapts=rules.batch_size_adapts, prompt_seconds=rules.prompt_seconds
        )
        self._urgent = Urgent(rules.weights)
        self._lanes: dict[int, Lane] = {}
        self._work = Work()
        self._look_seconds = FIRST_LOOK_SECONDS
        #: In a live stream; a backlog is read without a rest.
        self._read_again_at = 0.0
        self._settler = Settler(
            pool, self._publisher, Who(scope, holder, resource), rules, shared, self._lanes, self._size
        )

    async def gained(self, epochs: Mapping[int, int]) -> None:
        """Load where these lanes stand, and what of them is held or went ahead."""
        lanes = sorted(epochs)
        with translate():
            async with self._pool.acquire() as conn:
                positions = await outbox_position.load(conn, lanes)
                if not self._rules.dead_block:
                    async with self._shared.writing, conn.transaction():
                        await outbox_held.lock(conn, lanes)
                        await outbox_held.let_pass(conn, lanes)
                held = await outbox_held.load(conn, lanes)
                ahead = await outbox_position.ahead(conn, lanes)
        self._shared.keys.load(lanes, held.keys, held.held, held.dead)
        self._shared.ahead.load(lanes, ahead)
        self._urgent.reset()
        for lane, position in positions.items():
            self._lanes[lane] = Lane(epochs[lane], position, position, position)
            self._shared.epochs[lane] = epochs[lane]

    async def drain(self, lanes: Sequence[int]) -> None:
        """Read nothing more for these lanes; returns once nothing of them is in flight."""
        mine = {lane: self._lanes[lane] for lane in lanes if lane in self._lanes}
        for lane, state in mine.items():
            state.draining = True
            self._shared.epochs.pop(lane, None)
        self._work.drop(mine.keys())
        await self._settler.finish_lanes(mine.keys())
        async with self._shared.sending_held:  # what is held of them is not being sent any more
            for lane, state in mine.items():
                if self._lanes.get(lane) is state:
                    del self._lanes[lane]
                    self._shared.drop(lane)

    def dropped(self, lanes: Sequence[int]) -> None:
        """Forget these lanes; what is in flight of them writes no position."""
        for lane in lanes:
            self._lanes.pop(lane, None)
            self._shared.drop(lane)
        self._work.drop(set(lanes))

    async def restart(self, producer: Producer) -> None:
        """After an error of the broker: send with a new producer, from the stored positions on."""
        self._publisher.restart(producer)
        self._settler.refused = False
        await self.forget()

    async def forget(self) -> None:
        """Forget what was read or sent and not settled: the stored positions are where everything goes on."""
        await self._settler.forget()
        for state in self._lanes.values():
            state.sent = state.read = state.stored
        self._shared.keys.forget()
        self._shared.ahead.forget()
        self._urgent.reset()
        self._publisher.forget()
        self._work = Work()

    async def run_once(self) -> Pass:
        """One step of the pipeline: settle what was sent before, send what is ready and read on, all at once.

        Raises BrokerUnavailable, TopicUnavailable (call `restart` before the next pass), LeaseLost (no position was
        written; call `forget`, the lanes must be loaded again) and DatabaseUnavailable.
        """
        reading: asyncio.Task[bool] | None = None
        sent = False
        try:
            if self._work.waiting:
                async with TaskGroup() as tasks:
                    if len(self._work.ready) < self._rules.in_flight:
                        reading = tasks.create_task(self._read())
                    sending = tasks.create_task(self._send_ready(reading))
                sent, found = sending.result(), reading is not None and reading.result()
            else:
                found = await self._read()
            if found and self._read_again_at > time.monotonic():
                # There is nothing else to do until the next read.
                sent |= await self._send_ready(None)
            await self._settler.check()
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        # A live stream's read that finds nothing because it just found everything is not repeated at once either.
        if found or (sent and self._work.waiting):
            self._look_seconds = FIRST_LOOK_SECONDS
        else:
            await self._settler.pause(self._look_seconds)
            self._look_seconds = min(2 * self._look_seconds, LAST_LOOK_SECONDS)
        spoiled = self._settler.refused
        if spoiled:
            await self._salvage()
        return Pass(
            published=self._settler.take_published(),
            idle=not (found or sent or self._work.waiting or self._settler.flights or spoiled),
            blocked=len(self._shared.keys.full() & self._lanes.keys()),
            spoiled=spoiled,
        )

    async def finish(self) -> int:
        """Settle everything in flight, in order; returns the number of events published."""
        await self._settler.finish()
        if self._settler.refused:
            await self._salvage()
        return self._settler.take_published()

    async def _salvage(self) -> None:
        await self._settler.salvage()
        await self.forget()

    @property
    def lanes(self) -> Collection[int]:
        """The lanes being published now."""
        return self._lanes.keys()

    async def _read(self) -> bool:
        """Read the next window, or the next part of an open one; False when nothing new is to be seen."""
        waiting = self._shared.keys.full() | self._shared.keys.catching_up(time.monotonic())
        states = {lane: state for lane, state in self._lanes.items() if not (state.draining or lane in waiting)}
        if not states:
            return False
        if (rest := self._read_again_at - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        began = time.monotonic()
        with translate():
            async with self._connections() as conn:
                most = self._urgent.read_at_most(self._rules.prefetch)
                found = await read(conn, {lane: state.read for lane, state in states.items()}, most)
                # What was ready before has been sent meanwhile, unless more is waiting than goes out.
                if self._work.ready or not found.complete:
                    await self._read_urgent(conn, states, found)
        if found.complete:
            self._read_again_at = rested(began, time.monotonic(), len(found.rows))
        was_open = any(states[lane].read.next is not None for lane in found.after)
        self._take(found, {lane: states[lane] for lane in found.after})
        # Closing a window is progress too: the next one may have rows.
        return was_open or bool(found.rows)

    async def _read_urgent(self, conn: asyncpg.Connection, states: Mapping[int, Lane], found: Reading) -> None:
        """Look for urgent events among those that are not read yet."""
        # What is sent meanwhile is noted, because the query finds it waiting.
        sent = {lane: state.sent for lane, state in states.items()}
        with self._work.noting_sent():
            batches = await self._urgent.read(conn, sent, found.rows, self._shared)
            lost = gone(states, self._lanes)
            for level, rows in batches:
                self._work.add_urgent(level, [row for row in rows if row[LANE] not in lost])

    def _take(self, found: Reading, states: Mapping[int, Lane]) -> None:
        """Queue what was read, but for lanes that were lost or drained meanwhile."""
        lost = gone(states, self._lanes)
        for lane in states.keys() - lost:
            states[lane].read = found.after[lane]
        batches = split(found.rows, found.start, found.after, self._size.beside(urgent=self._urgent.about))
        self._work.ready.extend(part for part in (batch.without(lost) for batch in batches) if part.rows)

    async def _send_ready(self, reading: "asyncio.Task[bool] | None") -> bool:
        """Send what is ready, as soon as there is room for it, until the read is back; whether anything was."""
        settler, sent = self._settler, False
        while self._work.waiting and not (settler.refused or settler.failed):
            if settler.has_room:
                await self._send()
                sent = True
            elif sent if reading is None else reading.done():
                break
            else:
                settler.moved.clear()
                await _first(reading, settler.moved)
        return sent

    async def _send(self) -> None:
        """Hand the next batch to the producer, if there is any left."""
        partitions: dict[str, int] = {}
        while (level := self._urgent.next(self._work.waiting)) is not None:
            batch = self._work.peek(level)
            topics = batch.topics()
            if not (unknown := topics - partitions.keys() - self._shared.missing.keys()):
                break
            partitions.update(await self._publisher.partitions(unknown))
            for topic in unknown:
                if not partitions[topic]:
                    self._shared.miss(topic)
        else:
            return
        batch = self._work.pop(level)
        ahead = not batch.after
        choice = choose(
            batch.rows,
            self._shared.keys,
            self._shared.ahead,
            topics & self._shared.missing.keys(),
            self._shared.suspect,
            self._limits,
            time.time_ns() // 1000,
            decide=not ahead,
        )
        if ahead:
            # What is to be held, or was sent meanwhile, is left to the position that comes by.
            batch = Batch([row for row in choice.rows if row[ID] not in self._work.sent_meanwhile], {}, {})
        rows = batch.rows if ahead else choice.rows
        states = {lane: self._lanes[lane] for lane in batch.after or {row[LANE] for row in batch.rows}}
        held, passed = (NOTHING, NOTHING) if ahead else (choice.held, choice.passed)
        # Before the first byte leaves: who drains a lane must wait for this batch.
        flight = Flight(batch, states, partitions, rows, held, passed, ahead, time.monotonic())
        self._settler.add(flight)
        self._work.note_sent(flight)
        if ahead:
            for row in rows:
                self._shared.ahead.sent(row[LANE], row[ID])
        for lane, position in batch.after.items():
            states[lane].sent = position
        flight.sent = await self._publisher.send(flight)
        self._settler.sent(flight)


def rested(began: float, ended: float, events: int) -> float:
    """When to read again after a read of all there was that took so long; times of time.monotonic."""
    share = min(events * REST_AN_EVENT, LONGEST_REST)
    return ended + min((ended - began) * share, LONGEST_REST_SECONDS)


async def _first(reading: "asyncio.Task[bool] | None", moved: asyncio.Event) -> None:
    """Until one of the two is done."""
    waiting = asyncio.create_task(moved.wait())
    try:
        await asyncio.wait([waiting, reading] if reading else [waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
