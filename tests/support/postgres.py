"""Fresh, migrated databases on the real server: one template per schema, one copy per test."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from marty_msf.store.migrations import migrate, migrations
from tests.support.servers import server
from tests.support.waiting import eventually


def admin_url() -> str:
    """A superuser's URL of the server's maintenance database."""
    return server("MARTY_TEST_POSTGRES")


def with_database(url: str, database: str, *, user: str | None = None, password: str | None = None) -> str:
    """The same server, another database (and user)."""
    parts = urlsplit(url)
    netloc = parts.netloc
    if user is not None:
        address = netloc.rpartition("@")[2]
        netloc = f"{user}:{password}@{address}" if password else f"{user}@{address}"
    return urlunsplit((parts.scheme, netloc, f"/{database}", parts.query, ""))


def template_name() -> str:
    """Named by the schema's text, so that an edited migration makes another template."""
    digest = hashlib.sha256("\0".join(migration.sql for migration in migrations()).encode()).hexdigest()
    return f"marty_template_{digest[:12]}"


async def ensure_template() -> str:
    """Make the migrated template database unless it is there; safe for test runs side by side."""
    name = template_name()
    admin = await asyncpg.connect(admin_url())
    try:
        await admin.execute("SELECT pg_advisory_lock(hashtextextended($1, 1))", name)
        ready = await admin.fetchval("SELECT datistemplate FROM pg_database WHERE datname = $1", name)
        if not ready:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            await admin.execute(f'CREATE DATABASE "{name}"')
            conn = await asyncpg.connect(with_database(admin_url(), name))
            try:
                await migrate(conn)
            finally:
                await conn.close()
            # Only now is it complete: a run that was killed half-way leaves no template behind.
            await admin.execute(f'ALTER DATABASE "{name}" WITH IS_TEMPLATE true')
    finally:
        await admin.close()
    return name


@asynccontextmanager
async def database(template: str | None) -> AsyncIterator[str]:
    """The URL of a database of its own, dropped at the end; `template=None` gives an empty one."""
    name = f"marty_test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(admin_url())
    try:
        # A copy of the files is a third of the work, but it waits for the disk, where there is one to wait for.
        strategy = "wal_log" if await admin.fetchval("SHOW fsync") == "on" else "file_copy"
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template or "template0"}" STRATEGY {strategy}')
        try:
            yield with_database(admin_url(), name)
        finally:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await admin.close()


_BLOCKED: Final = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def blocked(conn: asyncpg.Connection) -> None:
    """Wait until another connection of this database waits for a lock."""

    async def look() -> int:
        # Within a transaction Postgres would show the same activity again and again.
        await conn.execute("SELECT pg_stat_clear_snapshot()")
        return int(await conn.fetchval(_BLOCKED))

    await eventually(look)
