"""The numbered SQL schema: what this program needs, what a database has, and the way from one to the other.

Files are `schema/NNNN_words.sql`, forward only. Each runs in a transaction of its own, all of them under one advisory
lock, so that any number of `marty migrate` may run at once.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import SchemaOutdated

_FILE_NAME: Final = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str


@cache
def migrations() -> Sequence[Migration]:
    """Every migration of this program, in order."""
    found = [
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in files("marty_msf.store").joinpath("schema").iterdir()
        if (match := _FILE_NAME.match(file.name))
    ]
    found.sort(key=lambda migration: migration.version)
    return tuple(found)


def required_version() -> int:
    """The schema version this program needs: the number of its newest file."""
    return migrations()[-1].version


VERSIONS: Final = """
SELECT version FROM marty.schema_version
"""


async def installed_versions(conn: Connection) -> frozenset[int]:
    """The numbers of the migrations the database has. Not inside a transaction: a missing schema is an error there."""
    try:
        return frozenset(row["version"] for row in await conn.fetch(VERSIONS))
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return frozenset()


async def check_version(conn: Connection) -> None:
    """Raise SchemaOutdated unless the database has every migration of this program. Not inside a transaction.

    A newer database is fine: migrations are safe with the code before them.
    """
    installed = await installed_versions(conn)
    if not installed.issuperset(migration.version for migration in migrations()):
        raise SchemaOutdated(
            f"the database schema is at version {max(installed, default=0)}, this program needs {required_version()}: "
            "run `marty migrate`"
        )


#: Any constant would do; it must only be the same in every program that migrates.
LOCK: Final = "SELECT pg_advisory_lock(hashtextextended('marty.migrate', 0))"
UNLOCK: Final = "SELECT pg_advisory_unlock(hashtextextended('marty.migrate', 0))"

PREPARE_SCHEMA: Final = """
CREATE SCHEMA IF NOT EXISTS marty;
CREATE TABLE IF NOT EXISTS marty.schema_version (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""

RECORD: Final = """
INSERT INTO marty.schema_version (version, name) VALUES ($1, $2)
"""


async def migrate(conn: Connection, report: Callable[[Migration], None] | None = None) -> Sequence[Migration]:
    """Bring the database to the newest version; returns what was applied, nothing when it was up to date.

    Opens its own transactions: one per file, so that an interrupted run goes on where it stopped. `report` hears of
    each file once it is committed.
    """
    await conn.execute(LOCK)
    try:
        installed = await installed_versions(conn)
        if not installed:
            await conn.execute(PREPARE_SCHEMA)
        missing = [migration for migration in migrations() if migration.version not in installed]
        for migration in missing:
            async with conn.transaction():
                await conn.execute(migration.sql)
                await conn.execute(RECORD, migration.version, migration.name)
            if report:
                report(migration)
        return tuple(missing)
    finally:
        if not conn.is_closed():
            await conn.execute(UNLOCK)
