"""The saga engine: what joins lanes, memory, waves, calls and starts."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from asyncpg import Connection

from marty_msf.core.errors import MartyError
from marty_msf.core.lanes import LANES
from marty_msf.core.saga.calling import KafkaCall
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import Due, Event, Restarted, Resumed, Started, Verb, Withdrawn
from marty_msf.core.saga.instance import Call, State
from marty_msf.core.saga.journal import fold
from marty_msf.core.saga.stages import standing
from marty_msf.store import saga_instance
from marty_msf.store.database import translate
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.ownership import LaneOwner
from marty_msf.worker.saga.calling.breaker import Breakers
from marty_msf.worker.saga.calling.call_numbers import CallNumbers
from marty_msf.worker.saga.calling.calls import Caller, CallPool, Messenger
from marty_msf.worker.saga.calling.gate import Gate
from marty_msf.worker.saga.calling.step_cache import StepCache
from marty_msf.worker.saga.definitions import Revisions
from marty_msf.worker.saga.history.partitions import keep_partitions
from marty_msf.worker.saga.locks import Locks
from marty_msf.worker.saga.memory import Live, Memory
from marty_msf.worker.saga.starters import Starters
from marty_msf.worker.saga.starts import Receipt, Starter
from marty_msf.worker.saga.surface.desk import Desk
from marty_msf.worker.saga.surface.moving import Mover
from marty_msf.worker.saga.waves import Waves
from marty_msf.worker.saga.writers import Writers, open_lines

logger = logging.getLogger(__name__)

#: How soon an instance that another process started in one of our lanes is found.
LOOK_SECONDS: Final = 0.1
LOOK_LIMIT: Final = 1000
LOAD_LIMIT: Final = 500
#: Without a lane after this long, others own all of them and this process stands by.
READY_SECONDS: Final = 3.0
#: Of the pod's grace period: how long calls in flight may still take when lanes are handed back.
DRAIN_SECONDS: Final = 18
_FIRST_ID: Final = UUID(int=0)


class Engine:
    """Runs the instances of one saga in the lanes this process owns. One `run` per object."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        resource: str,
        holder: str,
        definitions: Revisions,
        caller: Caller,
        workers: int,
        ended: Callable[[Live], None],
        broken: Callable[[str, Exception], None],
        worked: dict[int, int],
        drain_seconds: float = DRAIN_SECONDS,
        gate: Callable[[Breakers], Gate] = lambda breakers: breakers,
        calls: CallNumbers | None = None,
        messenger: Messenger | None = None,
        cache: StepCache | None = None,
    ) -> None:
        """`workers` bounds the calls at once; `ended` hears of every instance that ended or was parked
        here, `broken` of one that cannot be worked on: it is left as it is, and harms no other. `worked` is kept here
        and outlives the engine: lane -> epoch in which this process last worked on it. `gate` puts something in front
        of the breakers, `messenger` makes the calls over Kafka. `calls` counts them, `cache` answers some.
        """
        self._worked = worked
        self._pool = pool
        self._resource = resource
        self._definitions = definitions
        self._broken = broken
        #: Instances that cannot go on; not tried again before the next restart.
        self._left_alone: set[str] = set()
        self._drain_seconds = drain_seconds
        self.memory = Memory()
        #: Set once lanes are loaded, or when nobody left one for us.
        self.ready = asyncio.Event()
        self._progress = asyncio.Event()
        asked, happened = asyncio.Event(), asyncio.Event()
        self._pending = asyncio.Event()
        scope = f"saga:{resource}"
        self.breakers = Breakers(pool, resource, holder)
        self._locks = Locks(pool, resource, holder, self.memory, self._tell)
        self._when_ended = ended
        self._calls = CallPool(
            caller, workers, self._tell, gate(self.breakers), calls or CallNumbers(), messenger, cache
        )
        self._waves = Waves(
            self.memory,
            resource=resource,
            scope=scope,
            holder=holder,
            call=self._call,
            acquire=self._locks.acquire,
            ended=self._ended,
            broken=self._leave_alone,
            refused=self._refused,
            halted=self._calls.halt,
            verb_settled=self._verb_settled,
            happened=happened,
            progress=self._progress,
        )
        self._starters = Starters(
            partial(
                Starter,
                self.memory,
                resource=resource,
                scope=scope,
                holder=holder,
                began=self._waves.obey,
                pending=self._pending.set,
                asked=asked,
            )
        )
        self._writers = Writers(self._starters, self._waves, asked, happened)
        mover = Mover(pool, scope, holder, self.memory, definitions)
        self._desk = Desk(pool, resource, self.memory, definitions, mover, self._locks, self._tell, self._pending)
        self._owner = LaneOwner(pool, scope, holder, range(LANES), self)

    @property
    def starter(self) -> Starter:
        """Starts instances of the present definition."""
        assert self._definitions.current is not None
        return self.starter_of(self._definitions.current)

    def starter_of(self, definition: Definition) -> Starter:
        """Starts instances that follow this definition, which the database has already."""
        return self._starters.of(definition)

    async def start(self, business_key: str, context: Mapping[str, Any], traceparent: str | None = None) -> Receipt:
        """See Starter.start."""
        return await self.starter.start(business_key, context, traceparent)

    def hasten(self, live: Live, step: int) -> None:
        """End the wait of an operation at rest: what it waits for is there."""
        self._tell(live, Due(step))

    @property
    def left_alone(self) -> int:
        """How many instances of this process's lanes cannot be worked on."""
        return len(self._left_alone)

    async def run(self, stop: asyncio.Event) -> None:
        """Own lanes and work until `stop`; then finish what is in flight, hand the rest back and return.

        Raises DatabaseUnavailable; what was not committed is done again by whoever owns the lanes next.
        """
        await self._definitions.register()
        try:
            async with open_lines(self._pool) as lines, TaskGroup() as tasks:
                self._starters.open()
                parts = [
                    tasks.create_task(self._writers.write_starts(lines)),
                    tasks.create_task(self._writers.write_waves(lines)),
                    *([tasks.create_task(self._writers.write_beside(lines.beside))] if lines.beside else []),
                    tasks.create_task(self._calls.run()),
                    tasks.create_task(self.breakers.run()),
                    tasks.create_task(self._locks.run()),
                    tasks.create_task(self._look()),
                    tasks.create_task(keep_partitions(self._pool, stop)),
                ]
                await self._owner.run(stop)
                for part in parts:
                    part.cancel()
                await asyncio.wait(parts)
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self.ready.set()
            self._starters.close()
            self.memory.close_lanes(set(self.memory.epochs))

    async def gained(self, epochs: Mapping[int, int]) -> None:
        """LaneUser: load the lanes and take up everything live in them."""
        await self.memory.settled()
        pages = [page for lane in sorted(epochs) for page in [await self._load(lane)] if page]
        holding = await self._locks.recall(epochs) if self._definitions.locking else frozenset[UUID]()
        # Opened only when all is read, and all at once: nobody starts instances in a lane while it is being read.
        # With the same epoch nobody else had the lane: what is in flight there was ours, and this process lives.
        ours = frozenset(lane for lane, epoch in epochs.items() if self._worked.get(lane) == epoch)
        for lane, epoch in epochs.items():
            self.memory.open_lane(lane, epoch)
            self._worked[lane] = epoch
        for page in pages:
            self._take_up(page, ours, holding)
        self.ready.set()

    async def drain(self, lanes: Sequence[int]) -> None:
        """LaneUser: begin no call, write what comes of those in flight, within bounds; the next owner does the rest."""
        leaving = set(lanes)
        self.memory.start_draining(leaving)
        self._calls.withdraw(leaving)
        await self.memory.settled()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while self._calls.busy(leaving) or self._waves.busy(leaving):
                    self._progress.clear()
                    await self._progress.wait()
        self.memory.close_lanes(leaving)

    def dropped(self, lanes: Sequence[int]) -> None:
        """LaneUser: forget the lanes; answers of their calls in flight come to nothing."""
        self.memory.close_lanes(set(lanes))
        self._progress.set()

    def _ended(self, live: Live) -> None:
        if live.definition.lock is not None:
            self._locks.ended(live)
        self._when_ended(live)

    def _refused(self, lanes: frozenset[int]) -> None:
        self._owner.lost(lanes)
        self.dropped(sorted(lanes))

    def _verb_settled(self, live: Live, verb: Verb, refusal: str | None) -> None:
        self._desk.settled(live, verb, refusal)

    def _leave_alone(self, instance: str, error: Exception) -> None:
        if instance not in self._left_alone:
            self._left_alone.add(instance)
            self._broken(instance, error)

    def _tell(self, live: Live, event: Event) -> None:
        self._waves.tell(live, event)
        self._progress.set()

    def _call(self, live: Live, call: Call) -> None:
        """The intent is durable."""
        if self.memory.is_working(live.lane):
            self._calls.put(live, call)
        else:
            grouped = live.definition.steps[call.step].group is not None
            self._waves.tell(live, Withdrawn(call.step if grouped else None))

    async def _look(self) -> None:
        """Find instances that other processes started in our lanes, and verbs that people ask for, until cancelled."""
        began = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._pending.wait()
            self._pending.clear()
            epochs = self.memory.working_lanes()
            lanes = sorted(epochs)
            if not lanes:
                if time.monotonic() - began > READY_SECONDS:
                    self.ready.set()
                continue
            self.memory.begin_look()
            with translate():
                async with self._pool.acquire() as conn:
                    found = await saga_instance.pending(conn, self._resource, lanes, LOOK_LIMIT)
                    await self._count(conn, found)
            await self._definitions.load({stored.revision for stored in found})
            self._take_up([stored for stored in found if not self.memory.is_known(str(stored.id))])
            await self._desk.look(epochs)

    async def _load(self, lane: int) -> list[saga_instance.Stored]:
        """Everything live in a lane."""
        loaded: list[saga_instance.Stored] = []
        while True:
            with translate():
                async with self._pool.acquire() as conn:
                    after = loaded[-1].id if loaded else _FIRST_ID
                    page = await saga_instance.live(conn, self._resource, lane, after, LOAD_LIMIT)
                    await self._count(conn, page)
            loaded += page
            if len(page) < LOAD_LIMIT:
                await self._definitions.load({stored.revision for stored in loaded})
                return loaded

    async def _count(self, conn: Connection, found: Sequence[saga_instance.Stored]) -> None:
        """Count those that SQL started, before they can end."""
        if uncounted := [stored.id for stored in found if not stored.counted]:
            await saga_instance.count_started(conn, self._resource, uncounted)

    def _take_up(
        self,
        page: Sequence[saga_instance.Stored],
        ours: Collection[int] = (),
        holding: Collection[UUID] = (),
    ) -> None:
        """Bring instances into memory as their journals leave them, and go on with each. `holding` have their locks."""
        for stored in page:
            try:
                definition = self._definitions.get(stored.revision)
                folded = fold(definition, orjson.loads(stored.context), stored.entries)
            except (MartyError, ValueError) as error:
                self._leave_alone(str(stored.id), error)
                continue
            live = Live(
                stored.id,
                str(stored.id),
                stored.lane,
                definition,
                stored.started_ms,
                folded.instance,
                len(stored.entries),
                folded.bodies,
                traceparent=stored.traceparent,
                progress=(folded.instance, folded.progress_ms or stored.started_ms),
            )
            if live.text in self._left_alone or not self.memory.add(live):
                continue
            if folded.instance.locked and definition.lock is not None and live.id not in holding:
                self._locks.lost(live)
            if folded.instance.state is State.PENDING:
                self._waves.tell(live, Started(stored.started_ms + definition.timeout_ms))
            else:
                self._go_on(live, Restarted if live.lane in ours else Resumed)

    def _go_on(self, live: Live, found: type[Restarted | Resumed]) -> None:
        """Take up the calls that were in flight, and the waits."""
        for operation in live.instance.operations:
            if operation.until_ms is None:
                step = live.definition.steps[operation.step]
                # Waiting for a reply kills no worker: that one ended meanwhile is not counted.
                kind = Restarted if isinstance(step.call, KafkaCall) else found
                self._waves.tell(live, kind(None if step.group is None else operation.step))
        self._waves.obey(live, standing(live.definition, live.instance))
