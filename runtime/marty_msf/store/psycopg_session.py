"""Our statements on a psycopg connection; needs the extra `psycopg`."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from marty_msf.store.session import outside


class PsycopgSession:
    """An asynchronous connection of psycopg 3."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection

    @property
    def server_pid(self) -> int | None:
        return self._connection.info.backend_pid

    async def fetch(self, query: str, *arguments: Any) -> Sequence[Sequence[Any]]:
        return await fetch(self._connection, query, arguments)

    async def join(self) -> None:
        if self._connection.autocommit and not self.in_transaction():
            raise outside("psycopg", "`async with connection.transaction():` around both, or autocommit=False")

    def in_transaction(self) -> bool:
        return self._connection.info.transaction_status is not TransactionStatus.IDLE

    def block(self) -> AbstractAsyncContextManager[Any]:
        return self._connection.transaction()


def session_of(given: object) -> PsycopgSession | None:
    """None for what is no asynchronous connection."""
    return PsycopgSession(given) if isinstance(given, AsyncConnection) else None


async def fetch(connection: AsyncConnection[Any], query: str, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Rows of a statement with `$1`, on the connection as it stands."""
    # Our rows are read by place, whatever the application has its own made into.
    async with AsyncRawCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(query.encode(), arguments)
        return await cursor.fetchall()
