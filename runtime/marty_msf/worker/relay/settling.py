"""Writes the positions behind what Kafka has, beside the reading and sending: nothing of a live stream waits for them.

A write costs the same for one event as for a batch, so that it waits a moment for more acknowledgements (WRITE_SECONDS),
unless somebody waits for it or much would be repeated after a crash.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

import asyncpg

from marty_msf.core.errors import BatchTooLarge, NotSent, PoisonBatch, PoisonEvent, TopicUnavailable
from marty_msf.core.outbox.batch_size import BatchSize
from marty_msf.core.windows import Position
from marty_msf.store import outbox_position
from marty_msf.store.database import translate
from marty_msf.worker.groups import to_its_end
from marty_msf.worker.relay.adopting import Who
from marty_msf.worker.relay.flight import NOTHING, Flight, Lane, Settled
from marty_msf.worker.relay.publishing import Publisher
from marty_msf.worker.relay.rules import Rules
from marty_msf.worker.relay.shared import Shared

#: What ends a producer's session while the broker is there; NotSent may be told before the refusal that it is due to.
REFUSALS: Final = (PoisonEvent, PoisonBatch, BatchTooLarge, TopicUnavailable, NotSent)
#: From one write of the positions to the next, as long as less than a batch is acknowledged.
WRITE_SECONDS: Final = 0.05


class Settler:
    """Has what was handed to the producer until it is written down. A task of its own runs while there is any."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        publisher: Publisher,
        who: Who,
        rules: Rules,
        shared: Shared,
        lanes: Mapping[int, Lane],
        size: BatchSize,
    ) -> None:
        """`lanes` are those that are ours now; `size` is told how long batches took."""
        self._pool = pool
        self._publisher = publisher
        self._who = who
        self._rules = rules
        self._shared = shared
        self._lanes = lanes
        self._size = size
        self._flights: deque[Flight] = deque()
        self._task: asyncio.Task[None] | None = None
        self._published = 0
        self._written_at = 0.0
        self._hurry = asyncio.Event()
        self._changed = asyncio.Condition()
        #: Set at each acknowledgement, at each write, and when the task ends.
        self.moved = asyncio.Event()
        #: The producer's session is over, by a refusal; until a new one is given.
        self.refused = False

    @property
    def flights(self) -> Collection[Flight]:
        """What is on its way, or acknowledged and not written down."""
        return self._flights

    @property
    def has_room(self) -> bool:
        """Whether less waits for an acknowledgement, or to be written down, than may: in batches, of full ones."""
        most = self._rules.in_flight
        return sum(not flight.acknowledged for flight in self._flights) < most and self._events < most * self._size.now

    @property
    def _events(self) -> int:
        return sum(len(flight.rows) for flight in self._flights)

    @property
    def failed(self) -> bool:
        """Whether `check` will raise."""
        return self._task is not None and self._task.done() and self._task.exception() is not None

    def add(self, flight: Flight) -> None:
        """Before its first byte leaves: who drains a lane must wait for it. Call `sent` when it is handed over."""
        self._flights.append(flight)

    def sent(self, flight: Flight) -> None:
        """Look after it."""
        for sent in flight.sent or ():
            sent.acknowledged.add_done_callback(self._acknowledged)
        if self._task is None or (self._task.done() and not self.failed):
            self._task = asyncio.create_task(self._run())

    def take_published(self) -> int:
        """Events whose position was written since the last call."""
        published, self._published = self._published, 0
        return published

    async def check(self) -> None:
        """Raise what the task ended with: LeaseLost, DatabaseUnavailable, or BrokerUnavailable."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            await task

    async def pause(self, seconds: float) -> None:
        """Until the task has ended, or so long."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)

    async def finish(self) -> None:
        """Until everything is written down, or refused. Raises as `check`."""
        while self._task is not None:
            self._hurry.set()
            await asyncio.wait([self._task])
            await self.check()

    async def finish_lanes(self, lanes: Collection[int]) -> None:
        """Until nothing of these lanes is on its way; the task goes on with the others."""

        def finished() -> bool:
            if not any(flight.lanes.keys() & lanes for flight in self._flights):
                return True
            self._hurry.set()
            return False

        async with self._changed:
            await self._changed.wait_for(finished)

    async def salvage(self) -> None:
        """After a refusal: write down what was acknowledged, and hold what was refused."""
        await self.finish()
        await self._store(await self._publisher.salvage(tuple(self._flights)))

    async def forget(self) -> None:
        """Whatever is not written down is not looked after any more; what is being written is written."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            # Whoever forgets has an error of its own, or goes on from what is stored.
            if not task.cancelled():
                task.exception()
        async with self._changed:
            self._flights.clear()
            self._changed.notify_all()

    async def _run(self) -> None:
        try:
            # One that is being handed over comes by itself.
            while self._flights and self._flights[0].sent is not None and not self.refused:
                await self._settle(self._flights[0])
        finally:
            self.moved.set()

    async def _settle(self, oldest: Flight) -> None:
        """Wait for the oldest batch's acknowledgements and write the position behind it and behind all done after it."""
        if not await self._is_acknowledged(oldest):
            return
        self._size.acknowledged(len(oldest.rows), time.monotonic() - oldest.started_at)
        await self._rest()
        done = []
        for flight in tuple(self._flights):
            if not flight.acknowledged or not await self._is_acknowledged(flight):
                break
            done.append(flight)
        await self._store([(flight, flight.settled(NOTHING, {})) for flight in done])
        self._publisher.stored(done)
        async with self._changed:
            for _ in done:
                self._flights.popleft()
            self._hurry.clear()
            self.moved.set()
            self._changed.notify_all()

    async def _is_acknowledged(self, flight: Flight) -> bool:
        try:
            await self._publisher.acknowledged(flight.sent or ())
        except REFUSALS:
            self.refused = True
            return False
        return True

    async def _rest(self) -> None:
        """Until the next write is due."""
        seconds = self._written_at + WRITE_SECONDS - time.monotonic()
        if seconds <= 0 or self._events >= self._rules.batch_size or self._publisher.waits_for_writes:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _acknowledged(self, future: "asyncio.Future[None]") -> None:
        self.moved.set()
        if future.cancelled() or future.exception():
            self._hurry.set()

    async def _store(self, done: Sequence[tuple[Flight, Settled]]) -> None:
        """Write what is settled for the lanes that are still ours since they were read."""
        lanes: dict[int, Lane] = {}
        positions: dict[int, Position] = {}
        whole = Settled(positions, published=Counter())
        for flight, settled in done:
            ours = settled.without({lane for lane, state in flight.lanes.items() if self._lanes.get(lane) is not state})
            lanes.update((lane, flight.lanes[lane]) for lane in ours.lanes())
            positions.update(ours.positions)
            whole.published.update(ours.published)
            whole.held.update(ours.held)
            whole.ahead.update(ours.ahead)
            whole.passed.update(ours.passed)
        if lanes:
            # What ends the work beside it cancels this: a position that is stored and not remembered would let its events
            # be sent, and counted, once more.
            await to_its_end(self._write(lanes, whole))

    async def _write(self, lanes: Mapping[int, Lane], settled: Settled) -> None:
        epochs = {lane: state.epoch for lane, state in lanes.items()}
        exceptions = outbox_position.Exceptions(
            {id_: refusal for id_, (_, refusal) in settled.held.items()}, settled.ahead, list(settled.passed)
        )
        with translate():
            async with self._shared.writing, self._pool.acquire() as conn:
                held = await outbox_position.store(
                    conn,
                    self._who.scope,
                    self._who.holder,
                    self._who.resource,
                    epochs,
                    settled.positions,
                    settled.published,
                    exceptions,
                    dead_block=self._rules.dead_block,
                )
        self._written_at = time.monotonic()
        self._published += settled.published.total()
        for lane, position in settled.positions.items():
            lanes[lane].stored = position
        if exceptions:
            self._shared.suspect.difference_update(settled.held)
            self._shared.keys.stored(settled.held_keys(), held)
            self._shared.ahead.stored(settled.ahead)
            self._shared.ahead.passed(settled.passed)
