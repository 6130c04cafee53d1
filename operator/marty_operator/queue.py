"""The work queue: level-triggered, without duplicates, each key alone, failures with growing waits.

`Schedule` decides and knows no clock; `WorkQueue` is the thin asyncio shell around it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from marty_operator.resource import Key

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 60.0


def backoff_seconds(failures: int, spread: float) -> float:
    """Wait after the n-th failure in a row; `spread` in [0, 1) takes up to half of it away, so that keys do not march in step."""
    whole = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), MAX_BACKOFF_SECONDS)
    return whole * (1 - spread / 2)


@dataclass(slots=True)
class Schedule:
    """When which key is due. A key is never handed out twice at once, and an `add` while it runs is never lost."""

    due: dict[Key, float] = field(default_factory=dict)
    running: dict[Key, float] = field(default_factory=dict)
    failures: dict[Key, int] = field(default_factory=dict)

    def add(self, key: Key, at: float) -> None:
        """Have `key` reconciled at `at` or earlier."""
        self.due[key] = min(at, self.due.get(key, at))

    def take(self, now: float) -> Key | None:
        """The key that has waited longest among those due and not running."""
        ready = [(at, key) for key, at in self.due.items() if at <= now and key not in self.running]
        if not ready:
            return None
        _, key = min(ready)
        del self.due[key]
        self.running[key] = now
        return key

    def succeed(self, key: Key, next_at: float | None) -> None:
        """`next_at` None: nothing more to do until somebody adds the key again."""
        del self.running[key]
        self.failures.pop(key, None)
        if next_at is not None:
            self.add(key, next_at)

    def fail(self, key: Key, now: float, spread: float) -> float:
        """Put the key back after its backoff; returns the wait in seconds. A new `add` may bring it back earlier."""
        del self.running[key]
        self.failures[key] = self.failures.get(key, 0) + 1
        wait = backoff_seconds(self.failures[key], spread)
        self.add(key, now + wait)
        return wait

    def next_due(self) -> float | None:
        """When `take` will next return something, as far as known now."""
        return min((at for key, at in self.due.items() if key not in self.running), default=None)

    def oldest_wait(self, now: float) -> float:
        """Seconds that the longest waiting or running key is behind its time; 0 when all is well."""
        waiting = [now - at for key, at in self.due.items() if key not in self.running]
        return max([0.0, *waiting, *(now - since for since in self.running.values())])


class WorkQueue:
    """Runs `reconcile(key)` for every key that is due, at most `concurrency` at a time.

    `reconcile` returns the seconds after which the key shall be looked at again, or None.
    """

    def __init__(
        self,
        concurrency: int,
        now: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._schedule = Schedule()
        self._concurrency = concurrency
        self._now = now
        self._spread = spread
        self._changed = asyncio.Event()

    def add(self, key: Key, after_seconds: float = 0.0) -> None:
        """Ask for `key` to be reconciled; repeated calls before it runs are one."""
        self._schedule.add(key, self._now() + after_seconds)
        self._changed.set()

    @property
    def depth(self) -> int:
        """Keys that are due now but do not run yet."""
        now = self._now()
        return sum(at <= now for at in self._schedule.due.values())

    @property
    def stuck_seconds(self) -> float:
        """How long the oldest due or running key has been waiting for its turn or its end."""
        return self._schedule.oldest_wait(self._now())

    async def run(self, stop: asyncio.Event, reconcile: Callable[[Key], Awaitable[float | None]]) -> None:
        """Work until `stop`; what runs then is finished first."""
        slots = asyncio.Semaphore(self._concurrency)
        async with asyncio.TaskGroup() as tasks:
            stopper = tasks.create_task(self._wake_on(stop))
            while not stop.is_set():
                await slots.acquire()
                key = await self._next(stop)
                if key is None:
                    break
                task = tasks.create_task(self._one(key, reconcile), name=f"reconcile {key}")
                task.add_done_callback(lambda _: slots.release())
            stopper.cancel()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._changed.set()

    async def _next(self, stop: asyncio.Event) -> Key | None:
        while not stop.is_set():
            self._changed.clear()
            key = self._schedule.take(self._now())
            if key is not None:
                return key
            due = self._schedule.next_due()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._now())):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return None

    async def _one(self, key: Key, reconcile: Callable[[Key], Awaitable[float | None]]) -> None:
        try:
            after = await reconcile(key)
        except asyncio.CancelledError:
            self._schedule.fail(key, self._now(), self._spread())
            raise
        except Exception as error:  # one bad resource must not harm another, whatever it did
            wait = self._schedule.fail(key, self._now(), self._spread())
            known = getattr(error, "retryable", None)
            logger.warning(
                "%s: %s; next try in %.1f s", key, error, wait, exc_info=None if known is not None else error
            )
        else:
            self._schedule.succeed(key, None if after is None else self._now() + after)
        finally:
            self._changed.set()
