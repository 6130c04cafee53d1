"""The connection that the application has, whatever its driver: our statements run on it, in its own transaction.

A statement is written once, with `$1`: asyncpg and SQLAlchemy over asyncpg take it so, psycopg with a raw cursor.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from importlib import import_module
from typing import Any, Final, Protocol

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from marty_msf.core.errors import InvalidDefinition, OutsideTransaction, SchemaOutdated, TransactionFailed

#: What to do, by the driver whose calls autocommit.
_REMEDY: Final = "so this would not share the transaction of what it belongs to: {}"
#: SQLSTATEs of a schema, table, function or type that is not there.
_MISSING: Final = frozenset({"3F000", "42P01", "42883", "42704"})
SUPPORTED: Final = (
    "give an asyncpg connection, a psycopg AsyncConnection, or an AsyncSession or AsyncConnection of SQLAlchemy "
    "over asyncpg or psycopg; from any other driver call the SQL function marty.enqueue_event"
)


class Executor(Protocol):
    """What a statement of ours needs; an asyncpg connection has it by itself."""

    async def fetch(self, query: str, *arguments: Any) -> Sequence[Sequence[Any]]: ...


class Session(Executor, Protocol):
    """The application's connection."""

    @property
    def server_pid(self) -> int | None:
        """Process of the server that it talks to; None when that is not known without asking."""
        ...

    async def join(self) -> None:
        """Make sure that the next statement is part of the caller's transaction. Raises OutsideTransaction."""
        ...

    def in_transaction(self) -> bool: ...

    def block(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint in the caller's transaction, or a transaction of its own when there is none."""
        ...


class AsyncpgSession:
    """A connection of asyncpg, also one that a pool lent."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @property
    def server_pid(self) -> int | None:
        return int(self._connection.get_server_pid())

    async def fetch(self, query: str, *arguments: Any) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = await self._connection.fetch(query, *arguments)
        return rows

    async def join(self) -> None:
        if self._connection.is_closed():
            raise asyncpg.InterfaceError("the connection is closed: whatever its transaction did is undone")
        if not self.in_transaction():
            raise outside("asyncpg", "`async with connection.transaction():` around both")

    def in_transaction(self) -> bool:
        return bool(self._connection.is_in_transaction())

    def block(self) -> AbstractAsyncContextManager[Any]:
        transaction: AbstractAsyncContextManager[Any] = self._connection.transaction()
        return transaction


#: SQLSTATE of every statement behind one that failed.
_FAILED: Final = "25P02"


async def check(session: Session) -> None:
    """Make sure that the transaction can be committed. Raises TransactionFailed."""
    try:
        await session.fetch("SELECT 1")
    except Exception as error:
        if refusal(error)[0] != _FAILED:
            raise
        raise TransactionFailed(
            "a statement of this block failed and its error was swallowed, so Postgres undoes all of the block, the entry of the "
            "event as well: let the error leave the block, or put what may fail into a savepoint of its own"
        ) from error


def outside(driver: str, remedy: str) -> OutsideTransaction:
    """The error for a connection that commits each statement by itself."""
    return OutsideTransaction(f"this {driver} connection commits each statement by itself, " + _REMEDY.format(remedy))


def session_of(given: object) -> Session:
    """How to work on what the application gave. Raises InvalidDefinition for what it cannot be."""
    if isinstance(given, asyncpg.Connection | PoolConnectionProxy):
        return AsyncpgSession(given)
    # Drivers are extras: who gives a connection of theirs has them.
    roots = {kind.__module__.partition(".")[0] for kind in type(given).__mro__}
    for root, module in (("psycopg", "psycopg_session"), ("sqlalchemy", "sqlalchemy_session")):
        if root in roots and (made := import_module(f"marty_msf.store.{module}").session_of(given)) is not None:
            session: Session = made
            return session
    raise InvalidDefinition("session", f"a {type(given).__module__}.{type(given).__qualname__} is no such", SUPPORTED)


def refusal(error: BaseException) -> tuple[str, str, str]:
    """SQLSTATE, message and hint of what the server refused, out of any driver's error; empty when it is none."""
    for cause in _causes(error):
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            hint = getattr(cause, "hint", None) or getattr(getattr(cause, "diag", None), "message_hint", None)
            message = getattr(cause, "message", None) or getattr(getattr(cause, "diag", None), "message_primary", None)
            if hint or message:
                return state, str(message or cause), str(hint or "")
    return "", "", ""


def _outdated(error: BaseException) -> SchemaOutdated | None:
    """What is missing of the schema; None for every other error, also for a missing table of the application's own."""
    state, message, _ = refusal(error)
    if state in _MISSING and re.search(r"\bmarty\b", message):
        return SchemaOutdated(
            f"{message}: the schema marty is missing in this database, or older than this program: run `marty migrate` on it"
        )
    return None


@contextmanager
def schema_told() -> Iterator[None]:
    """Around a statement of ours in the application's connection: raises SchemaOutdated in place of the driver's error."""
    try:
        yield
    except Exception as error:
        if told := _outdated(error):
            raise told from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    for cause in (error, getattr(error, "orig", None), getattr(error, "__cause__", None)):
        if isinstance(cause, BaseException):
            yield cause
            if cause is not error and isinstance(cause.__cause__, BaseException):
                yield cause.__cause__


SERVER_HAS: Final = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND datname = current_database())
"""


async def is_of_this_database(conn: Executor, pid: int) -> bool:
    """Whether a process of the server works in the database of `conn`."""
    return bool((await conn.fetch(SERVER_HAS, pid))[0][0])
