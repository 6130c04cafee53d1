"""Ends the relay's idle waits early: a NOTIFY by `marty.wake_relay()`, sent by writers after their commit.

A hint, nothing more: without it, or while the connection is lost, the relay looks every `pollingIntervalMs`.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

import asyncpg

from marty_msf.core.errors import DatabaseUnavailable
from marty_msf.store.database import translate
from marty_msf.worker.backoff import pause

logger = logging.getLogger(__name__)

CHANNEL: Final = "marty_outbox"
CHECK_SECONDS: Final = 5


class Waker:
    """`event` is set by whoever knows that something is to be read."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.event = asyncio.Event()

    async def listen(self, stop: asyncio.Event) -> None:
        """Keep a connection that listens until `stop`."""
        while not stop.is_set():
            try:
                with translate():
                    async with self._pool.acquire() as conn:
                        await self._listen_on(conn, stop)
            except DatabaseUnavailable as error:
                logger.info("no wake-ups for a moment: %s", error)
                await pause(stop, CHECK_SECONDS)

    async def _listen_on(self, conn: asyncpg.Connection, stop: asyncio.Event) -> None:
        await conn.add_listener(CHANNEL, self._wake)
        try:
            while not (stop.is_set() or conn.is_closed()):
                await pause(stop, CHECK_SECONDS)
        finally:
            if not conn.is_closed():
                await conn.remove_listener(CHANNEL, self._wake)

    async def wait(self, stop: asyncio.Event, seconds: float) -> bool:
        """Wait so long, or until a wake-up or `stop`; whether it was a wake-up."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.event, stop)]
        with suppress(TimeoutError):
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        woken = self.event.is_set()
        self.event.clear()
        return woken

    def _wake(self, *_: Any) -> None:
        self.event.set()
