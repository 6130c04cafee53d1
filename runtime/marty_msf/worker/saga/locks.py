"""Keeps the semantic locks of the instances in our lanes: queues them, tells them when they hold, hands over when they end.

Who holds what is in the database (`store.saga_lock`); what is here is only whom to tell. An instance that ends frees its
keys by that commit already, so nothing is lost when this process ends before it hands them over: whoever waits
looks every second whether the one before it is still there.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final
from uuid import UUID

import asyncpg
from asyncpg import Connection

from marty_msf.core.saga.events import Locked, LockLost, LockRefused
from marty_msf.core.saga.instance import Acquire, State
from marty_msf.store import saga_lock
from marty_msf.store.database import translate
from marty_msf.worker.saga.memory import Live, Memory

#: How soon an instance hears that another process handed a lock to it.
LOOK_SECONDS: Final = 0.1
#: How soon those who wait notice that the one before them is gone.
CHECK_SECONDS: Final = 1.0
#: Of the time between two checks, what a check may take at most: many who wait must not keep the database busy.
_CHECK_SHARE: Final = 0.05
#: Instances queued in one turn.
TURN_LIMIT: Final = 500
_GRANTS: Final = 5000
_STALE_KEYS: Final = 1000


class Locks:
    """One `run` per object; all else is called from the event loop's thread."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        resource: str,
        holder: str,
        memory: Memory,
        tell: Callable[[Live, Locked | LockRefused | LockLost], None],
    ) -> None:
        self._pool = pool
        self._resource = resource
        self._scope = resource.partition("/")[0]
        self._holder = holder
        self._memory = memory
        self._tell = tell
        self._asked: list[tuple[Live, Acquire]] = []
        self._freed: list[tuple[UUID, int, Callable[[], None]]] = []
        self._waiting: dict[UUID, Live] = {}
        #: Number of the newest grant that was seen.
        self._granted = 0
        self._next_check = 0.0
        self._wake = asyncio.Event()

    def acquire(self, live: Live, command: Acquire) -> None:
        """Get the lock for an instance that waits for it; Locked or LockRefused comes back."""
        self._asked.append((live, command))
        self._wake.set()

    def ended(self, live: Live) -> None:
        """The instance left our memory: it ended, or it is parked, and then it keeps what it holds."""
        self._waiting.pop(live.id, None)
        if live.instance.state is not State.PARKED or not live.instance.locked:
            self.free(live.id, live.lane)

    def free(self, instance: UUID, lane: int, done: Callable[[], None] = lambda: None) -> None:
        """Hand what the instance holds to the next waiters; `done` is called once that is durable, if the lane is ours."""
        self._freed.append((instance, lane, done))
        self._wake.set()

    async def recall(self, epochs: Mapping[int, int]) -> frozenset[UUID]:
        """The instances in lanes gained just now that hold their locks. Raises DatabaseUnavailable."""
        with translate():
            async with self._pool.acquire() as conn:
                return await saga_lock.recall(conn, self._resource, sorted(epochs))

    def lost(self, live: Live) -> None:
        """An instance came back that believes to hold its lock and does not."""
        lock = live.definition.lock
        seconds = "its whole lease" if lock is None else f"its lease of {lock.lease_seconds} s"
        self._tell(
            live,
            LockLost(
                f"its semantic lock went to another instance, because no worker ran for {seconds}: "
                "see what changed meanwhile, then resume or cancel it"
            ),
        )

    async def run(self) -> None:
        """Keep the locks until cancelled. Raises DatabaseUnavailable."""
        while True:
            self._wake.clear()
            if self._asked or self._freed or self._waiting:
                with translate():
                    async with self._pool.acquire() as conn:
                        await self.run_once(conn)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if self._waiting else None):
                    await self._wake.wait()

    async def run_once(self, conn: Connection) -> None:
        """Take a turn if there is something to say, look who holds now, and sometimes whether somebody waits in vain."""
        if self._asked or self._freed:
            await self._turn(conn)
        self._waiting = {id_: live for id_, live in self._waiting.items() if not live.gone}
        if self._waiting and time.monotonic() >= self._next_check:
            await self._check(conn)
        while self._waiting:
            ids, self._granted = await saga_lock.granted(conn, self._resource, self._granted, _GRANTS)
            for id_ in ids:
                self._answer(id_, Locked())
            if len(ids) < _GRANTS:
                break

    async def _turn(self, conn: Connection) -> None:
        freed, self._freed = self._freed, []
        taken, self._asked = self._asked[:TURN_LIMIT], self._asked[TURN_LIMIT:]
        if self._asked:
            self._wake.set()
        wanted: dict[UUID, saga_lock.Asked] = {}
        for live, command in taken:
            lock = live.definition.lock
            if live.gone or lock is None:
                continue
            wanted[live.id] = saga_lock.Asked(live.id, live.lane, command.keys, lock.lease_seconds, command.reject)
            self._waiting[live.id] = live
        answers = await saga_lock.turn(
            conn,
            self._resource,
            self._holder,
            self._memory.epochs,
            [(id_, lane) for id_, lane, _ in freed],
            list(wanted.values()),
        )
        done = {it.instance for it in answers if it.outcome == saga_lock.FREED}
        for id_, _, tell in freed:
            if id_ in done:
                tell()
        for it in answers:
            if it.outcome == saga_lock.HELD:
                self._answer(it.instance, Locked())
            elif it.outcome == saga_lock.REFUSED:
                self._answer(it.instance, LockRefused(str(it.before)))

    async def _check(self, conn: Connection) -> None:
        began = time.monotonic()
        keys = await saga_lock.stale(conn, self._resource, _STALE_KEYS)
        if keys:
            await saga_lock.settle(conn, self._scope, keys)
        now = time.monotonic()
        self._next_check = now + max(CHECK_SECONDS, (now - began) / _CHECK_SHARE)

    def _answer(self, id_: UUID, event: Locked | LockRefused) -> None:
        live = self._waiting.pop(id_, None)
        # It may have ended meanwhile; in a lane that is about to leave us, the next owner asks again.
        if live is not None and self._memory.is_working(live.lane):
            self._tell(live, event)
