"""Handling one event: its record in the inbox, its effects and the events that follow it are one transaction.

Whatever a handler does to that transaction or its connection is a failure of the handler and no outage: it would come again
with each attempt, and one event would stop all others.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeAlias

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import MartyError
from marty_msf.core.user_values import kept, said
from marty_msf.patterns.choreography.event import Event, Received
from marty_msf.store import inbox
from marty_msf.store.database import translate

EventHandler: TypeAlias = Callable[[Event], Awaitable[None] | None]
#: Inside the event's transaction, behind its handlers; raises to roll it back.
Guard: TypeAlias = Callable[[Connection], Awaitable[None]]

ERROR_CHARACTERS: Final = 2000
#: What a statement raises whose connection the server ended, or somebody closed or still uses.
_BROKEN: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    ConnectionError,
)
_SWALLOWED: Final = (
    "a statement failed and the handler swallowed its error, so Postgres undoes all of the transaction: let the error leave the"
    " handler, or put what may fail into `async with event.connection.transaction():`"
)
_ENDED: Final = "it ended the transaction that it was given, which is the event's own: leave COMMIT and ROLLBACK out, and raise to roll back"


@dataclass(frozen=True, slots=True)
class Ongoing:
    """The transaction that the current task works in, and the event it handles there."""

    connection: Connection
    event: Event | None
    #: Of the handler, and who called it.
    task: "asyncio.Task[Any] | None" = None
    handling: "Handling | None" = None


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
            async with self._pool.acquire() as conn, whole(conn) as undo:
                recorded = await inbox.record(conn, self._consumer, received.source, received.event_id, received.key)
                if not recorded.fresh or recorded.behind:
                    await undo()
                    return Handled.BEHIND if recorded.fresh else Handled.DUPLICATE
                await self.run(conn, received, guard)
        return Handled.DONE

    async def run(self, conn: Connection, received: Received, guard: Guard) -> None:
        """Run the handlers and then the guard in the caller's transaction, which is `whole`. Raises HandlerFailed, and what the
        guard raises; the caller rolls back.
        """
        bound = asyncio.timeout(self._timeout_seconds)
        try:
            event = received.event(conn)
            token = ONGOING.set(Ongoing(conn, event, asyncio.current_task(), self))
            try:
                async with bound:
                    for handler in self._handlers[received.type]:
                        result = handler(event)
                        if inspect.isawaitable(result):
                            await result
            finally:
                ONGOING.reset(token)
        except (SystemExit, KeyboardInterrupt, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _failed(received, "something that it waited for was cancelled") from error
        except BaseException as error:
            # Also what is no Exception: it must not end the handling of all other events.
            late = bound.expired() and isinstance(error, TimeoutError)
            raise _failed(
                received, f"it took longer than {self._timeout_seconds:.3g} s" if late else _words(error)
            ) from error
        try:
            if not (conn.is_closed() or conn.is_in_transaction()):
                raise _failed(received, _ENDED)
            await guard(conn)
        except asyncpg.InFailedSQLTransactionError as error:
            raise _failed(received, _SWALLOWED) from error
        except _BROKEN as error:
            raise _failed(received, f"its connection ended while it worked: {_words(error)}") from error


@asynccontextmanager
async def whole(conn: Connection) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A transaction of the block, which is undone when that raises, whatever became of the connection. Gives what undoes it without
    an error: nothing is done behind it.
    """
    transaction = conn.transaction()
    await transaction.start()
    undone = False

    async def undo() -> None:
        nonlocal undone
        undone = True
        try:
            await transaction.rollback()
        except _BROKEN:
            # The server has undone it, or does so as soon as it hears that nobody is there.
            with suppress(asyncpg.InterfaceError):  # closed by the handler: the pool has it back already
                conn.terminate()

    try:
        yield undo
    except BaseException:
        await undo()
        raise
    if not undone:
        await transaction.commit()


def _words(error: BaseException) -> str:
    text = said(error)
    if isinstance(error, MartyError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _failed(received: Received, words: str) -> HandlerFailed:
    text = f"handler of {received.type!r} failed for event {received.event_id}: {words}"
    return HandlerFailed(kept(text[:ERROR_CHARACTERS]))
