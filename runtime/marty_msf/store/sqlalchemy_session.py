"""Our statements in a session or connection of SQLAlchemy; needs the extra `sqlalchemy` and asyncpg's or psycopg's dialect."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session

from marty_msf.core.errors import InvalidDefinition
from marty_msf.store.session import SUPPORTED, outside


class SqlalchemySession:
    """An AsyncSession or an AsyncConnection: both begin their transaction with the first statement."""

    def __init__(self, given: AsyncSession | AsyncConnection) -> None:
        self._given = given

    @property
    def server_pid(self) -> int | None:
        # Asking would begin a transaction.
        return None

    async def fetch(self, query: str, *arguments: Any) -> Sequence[Sequence[Any]]:
        connection = await self._connection()
        if connection.dialect.driver.startswith("psycopg"):
            from marty_msf.store.psycopg_session import fetch

            return await fetch((await connection.get_raw_connection()).driver_connection, query, arguments)  # type: ignore[arg-type]
        return (await connection.exec_driver_sql(query, arguments)).fetchall()

    async def join(self) -> None:
        if isinstance(self._given, AsyncSession):
            # So that the aggregate's row is locked before its event gets its number.
            await self._given.flush()
        connection = await self._connection()
        raw = await connection.get_raw_connection()
        if getattr(raw.dbapi_connection, "autocommit", False):
            raise outside("SQLAlchemy", "use an engine and a session without isolation_level AUTOCOMMIT")

    def in_transaction(self) -> bool:
        return self._given.in_transaction()

    def block(self) -> AbstractAsyncContextManager[Any]:
        return self._given.begin_nested() if self.in_transaction() else self._given.begin()

    @property
    def url(self) -> str | None:
        """Of the database, for asyncpg; None when the engine does not say it, or connects in a way of its own."""
        bind = self._given.bind if isinstance(self._given, AsyncSession) else self._given.engine
        engine = bind.engine if isinstance(bind, AsyncConnection) else bind
        return _plain(engine.url) if isinstance(engine, AsyncEngine) else None

    async def _connection(self) -> AsyncConnection:
        connection = await self._given.connection() if isinstance(self._given, AsyncSession) else self._given
        name, driver = connection.dialect.name, connection.dialect.driver
        if name != "postgresql" or not driver.startswith(("asyncpg", "psycopg")) or driver.startswith("psycopg2"):
            raise InvalidDefinition("session", f"its dialect is {name}+{driver}", SUPPORTED)
        return connection


def session_of(given: object) -> SqlalchemySession | None:
    """None for what is neither an AsyncSession, scoped or not, nor an AsyncConnection."""
    if isinstance(given, async_scoped_session):
        given = given()
    return SqlalchemySession(given) if isinstance(given, AsyncSession | AsyncConnection) else None


def _plain(url: URL) -> str | None:
    if not url.database or not (url.host or url.query.get("host")):
        return None
    # asyncpg's dialect calls it `ssl`, the URL of libpq and of asyncpg itself `sslmode`.
    query = {"sslmode" if name == "ssl" else name: value for name, value in url.query.items()}
    query.pop("prepared_statement_cache_size", None)
    return url.set(drivername="postgresql", query=query).render_as_string(hide_password=False)
