"""Handling one event: its record in the inbox, its effects and the events that follow it are one transaction."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import MartyError
from marty_msf.core.user_values import kept
from marty_msf.patterns.choreography.event import Event, Received
from marty_msf.store import inbox
from marty_msf.store.database import translate

EventHandler: TypeAlias = Callable[[Event], Awaitable[None] | None]
#: Inside the event's transaction, just before its commit; raises to roll it back.
Guard: TypeAlias = Callable[[Connection], Awaitable[None]]

ERROR_CHARACTERS: Final = 2000


@dataclass(frozen=True, slots=True)
class Ongoing:
    """The transaction that the current task works in, and the event it handles there."""

    connection: Connection
    event: Event | None


#: Seen by `EventBus.publish`, so that events are published in the transaction of the event that causes them.
ONGOING: Final[ContextVar[Ongoing | None]] = ContextVar("marty_events_ongoing", default=None)


class HandlerFailed(MartyError):
    """A handler raised; its transaction was rolled back. The cause is `__cause__`."""


class Handled(Enum):
    #: Its effects are durable.
    DONE = auto()
    #: It was handled before; nothing was done.
    DUPLICATE = auto()
    #: An earlier event of its key is parked; nothing was done.
    BEHIND = auto()
    #: Nobody handles its type.
    IGNORED = auto()


class Handling:
    """Runs the handlers of a bus."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        consumer: str,
        handlers: Mapping[str, Sequence[EventHandler]],
        timeout_seconds: float,
    ) -> None:
        self._pool = pool
        self._consumer = consumer
        self._handlers = handlers
        self._timeout_seconds = timeout_seconds

    async def handle(self, received: Received, guard: Guard) -> Handled:
        """Handle an event in a transaction of its own.

        Raises HandlerFailed, DatabaseUnavailable, and what `guard` raises; then nothing of it is durable.
        """
        if not self._handlers.get(received.type):
            return Handled.IGNORED
        with translate():
            async with self._pool.acquire() as conn:
                transaction = conn.transaction()
                await transaction.start()
                try:
                    recorded = await inbox.record(
                        conn, self._consumer, received.source, received.event_id, received.key
                    )
                    if not recorded.fresh or recorded.behind:
                        await transaction.rollback()
                        return Handled.BEHIND if recorded.fresh else Handled.DUPLICATE
                    await self.run(conn, received)
                    await guard(conn)
                except BaseException:
                    await transaction.rollback()
                    raise
                await transaction.commit()
        return Handled.DONE

    async def run(self, conn: Connection, received: Received) -> None:
        """Run the handlers in the caller's transaction. Raises HandlerFailed; the caller rolls back."""
        try:
            event = received.event(conn)
            token = ONGOING.set(Ongoing(conn, event))
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    for handler in self._handlers[received.type]:
                        result = handler(event)
                        if inspect.isawaitable(result):
                            await result
            finally:
                ONGOING.reset(token)
        except Exception as error:
            raise HandlerFailed(self._sentence(received, error)) from error

    def _sentence(self, received: Received, error: Exception) -> str:
        said = str(error) or type(error).__name__
        if isinstance(error, TimeoutError) and not str(error):
            said = f"it took longer than {self._timeout_seconds:.3g} s"
        elif not isinstance(error, MartyError):
            said = f"{type(error).__name__}: {said}"
        text = f"handler of {received.type!r} failed for event {received.event_id}: {said}"
        return kept(text[:ERROR_CHARACTERS])
