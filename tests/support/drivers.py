"""The connections an application may have, all with the same few verbs, so that one test speaks for every driver."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import asyncpg
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine


@dataclass(frozen=True, slots=True)
class Driver:
    """One connection."""

    #: What the application has.
    given: Any
    #: The application's own transaction, committed at its end.
    transaction: Callable[[], AbstractAsyncContextManager[Any]]
    #: The application's own statement, without arguments.
    execute: Callable[[str], Any]


@asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[Driver]:
    connection = await asyncpg.connect(url)
    try:
        yield Driver(connection, connection.transaction, connection.execute)
    finally:
        await connection.close(timeout=5)


@asynccontextmanager
async def _pooled(url: str) -> AsyncIterator[Driver]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        yield Driver(connection, connection.transaction, connection.execute)


@asynccontextmanager
async def _psycopg(url: str) -> AsyncIterator[Driver]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield Driver(connection, connection.transaction, lambda sql: connection.execute(sql.encode()))


@asynccontextmanager
async def _psycopg_autocommit(url: str) -> AsyncIterator[Driver]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield Driver(connection, connection.transaction, lambda sql: connection.execute(sql.encode()))


def alchemy_url(url: str, driver: str) -> str:
    """The same database for SQLAlchemy."""
    return url.replace("postgresql://", f"postgresql+{driver}://", 1).replace(
        "postgres://", f"postgresql+{driver}://", 1
    )


def _session(driver: str) -> Callable[[str], AbstractAsyncContextManager[Driver]]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Driver]:
        engine = create_async_engine(alchemy_url(url, driver))
        try:
            async with AsyncSession(engine) as session:
                yield Driver(session, session.begin, lambda sql: session.execute(text(sql)))
        finally:
            await engine.dispose()

    return opened


def _connection(driver: str) -> Callable[[str], AbstractAsyncContextManager[Driver]]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Driver]:
        engine = create_async_engine(alchemy_url(url, driver))
        try:
            async with AsyncConnection(engine) as connection:
                yield Driver(connection, connection.begin, lambda sql: connection.execute(text(sql)))
        finally:
            await engine.dispose()

    return opened


#: Opens a connection to the database with the URL.
DRIVERS: Final = MappingProxyType(
    {
        "asyncpg": _asyncpg,
        "asyncpg pool": _pooled,
        "psycopg": _psycopg,
        "psycopg autocommit": _psycopg_autocommit,
        "session over asyncpg": _session("asyncpg"),
        "session over psycopg": _session("psycopg"),
        "connection over asyncpg": _connection("asyncpg"),
        "connection over psycopg": _connection("psycopg"),
    }
)
