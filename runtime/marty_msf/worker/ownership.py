"""Which lanes this process owns now: claims them, renews them, hands surplus back, and tells their user in time.

Renewals go on while a user loads or drains lanes, so slow loading never costs the lease. The database refuses whatever
a former owner still writes (see store.leases), so a late notice here is harmless.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Protocol

import asyncpg

from marty_msf.core.lanes import surplus
from marty_msf.store import leases
from marty_msf.store.database import translate
from marty_msf.worker.groups import TaskGroup, first_error


class LaneUser(Protocol):
    """Who works on the lanes."""

    async def gained(self, epochs: Mapping[int, int]) -> None:
        """Load the state of these lanes (lane -> epoch); called before `LaneOwner.held` shows them."""
        ...

    async def drain(self, lanes: Sequence[int]) -> None:
        """Stop writing to these lanes and let work in flight end; `held` shows them until this returns."""
        ...

    def dropped(self, lanes: Sequence[int]) -> None:
        """These lanes are lost already: forget them at once; a write to them would be refused."""
        ...


class LaneOwner:
    """Owns a fair share of the lanes of one scope for one user."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        scope: str,
        holder: str,
        lanes: Sequence[int],
        user: LaneUser,
        *,
        ttl_seconds: float = 6,
        renew_seconds: float = 2,
    ) -> None:
        self._pool = pool
        self._scope = scope
        self._holder = holder
        self._lanes = lanes
        self._user = user
        self._ttl_seconds = ttl_seconds
        self._renew_seconds = renew_seconds
        self._held: dict[int, int] = {}
        self._look_again = asyncio.Event()
        #: Set once the first claim round is through, whether it brought lanes or not.
        self.ready = asyncio.Event()

    @property
    def held(self) -> Mapping[int, int]:
        """lane -> epoch of what is ours now, lanes being drained included: their last writes need the epoch."""
        return MappingProxyType(self._held)

    async def run(self, stop: asyncio.Event) -> None:
        """Own lanes until `stop`, then drain and release all of them. Raises DatabaseUnavailable, everything dropped."""
        self._held.clear()
        try:
            async with TaskGroup() as tasks:
                change: asyncio.Task[None] | None = None
                while not stop.is_set():
                    claims = await self._claim(self._lanes)
                    self._forget(lane for lane, epoch in self._held.items() if claims.held.get(lane) != epoch)
                    if change is None or change.done():
                        change = tasks.create_task(self._change(claims))
                    await self._wait(stop)
                await self._renew_until(change)
                await self._renew_until(tasks.create_task(self._user.drain(sorted(self._held))))
            with translate():
                async with self._pool.acquire() as conn:
                    await leases.leave(conn, self._scope, self._holder)
            self._held.clear()
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._forget(list(self._held))

    def lost(self, lanes: Iterable[int]) -> None:
        """A fenced write was refused: drop these lanes now and look at once which of them are ours after all."""
        self._forget(lanes)
        self._look_again.set()

    async def _claim(self, lanes: Sequence[int]) -> leases.Claims:
        with translate():
            async with asyncio.timeout(self._ttl_seconds), self._pool.acquire() as conn:
                return await leases.claim(conn, self._scope, self._holder, lanes, self._ttl_seconds)

    async def _change(self, claims: leases.Claims) -> None:
        """Take up what is new, then give up what is above our share."""
        gained = {lane: epoch for lane, epoch in claims.held.items() if lane not in self._held}
        if gained:
            await self._user.gained(gained)
            self._held.update(gained)
        if too_many := surplus(list(self._held), len(self._lanes), claims.workers):
            await self._user.drain(too_many)
            for lane in too_many:
                self._held.pop(lane, None)
            with translate():
                async with self._pool.acquire() as conn:
                    await leases.release(conn, self._scope, self._holder, too_many)
        self.ready.set()

    def _forget(self, lanes: Iterable[int]) -> None:
        gone = sorted(set(lanes) & self._held.keys())
        if gone:
            for lane in gone:
                del self._held[lane]
            self._user.dropped(gone)

    async def _renew_until(self, task: asyncio.Task[None] | None) -> None:
        """Renew, but take nothing new, until the task is done."""
        while task is not None and not task.done():
            await asyncio.wait({task}, timeout=self._renew_seconds)
            if not task.done():
                claims = await self._claim([])
                self._forget(lane for lane, epoch in self._held.items() if claims.held.get(lane) != epoch)

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until the next renewal is due, `stop` is set, or a lost lane asks for an earlier look."""
        self._look_again.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._renew_seconds):
                await any_of(stop, self._look_again)


async def any_of(*events: asyncio.Event) -> None:
    """Return once one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
