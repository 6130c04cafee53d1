"""What a piece of work cost: commits and write-ahead log of Postgres, CPU of each process."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from bench.harness import cpu_by_process, cpu_since
from tests.support.postgres import admin_url

#: Sessions report their commits once a second; the same lag at both ends of a steady load cancels out.
COMMITS: Final = "SELECT coalesce(sum(xact_commit), 0)::bigint FROM pg_stat_database WHERE datname = ANY($1::text[])"
WAL: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
POSTGRES: Final = "postgres"
BROKER: Final = "kafka"


class Meter:
    """Reads at `begin` and `end`; the differences are its figures."""

    def __init__(
        self, conn: asyncpg.Connection, databases: Sequence[str], pids: Mapping[str, int], *, broker: bool
    ) -> None:
        self._conn = conn
        self._databases = list(databases)
        self._servers = {*([POSTGRES] if databases else []), *([BROKER] if broker else [])}
        self.watch(pids)
        self.commits = 0
        self.wal_bytes = 0
        #: By process, Postgres with all of its own as one.
        self.cpu_seconds: dict[str, float] = {}

    def watch(self, pids: Mapping[str, int]) -> None:
        """From `begin` on these are the processes, by name."""
        self._pids = pids
        self._groups = {*pids, *self._servers}

    async def begin(self) -> None:
        """The work begins."""
        self._before = cpu_by_process(self._pids)
        self._began = await self._read()

    async def end(self) -> None:
        """The work is over."""
        used = cpu_since(self._before, cpu_by_process(self._pids))
        self.cpu_seconds = {name: seconds for name, seconds in used.items() if name in self._groups}
        commits, wal_bytes = await self._read()
        self.commits, self.wal_bytes = commits - self._began[0], wal_bytes - self._began[1]

    async def _read(self) -> tuple[int, int]:
        return await self._conn.fetchval(COMMITS, self._databases), await self._conn.fetchval(WAL)


@asynccontextmanager
async def meter(databases: Sequence[str], pids: Mapping[str, int], *, broker: bool = False) -> AsyncIterator[Meter]:
    """A meter that has not begun, behind a CHECKPOINT. `databases` are names, none for a contender without Postgres.

    `broker`: Kafka's CPU is of interest too.
    """
    conn = await asyncpg.connect(admin_url())
    try:
        await conn.execute("CHECKPOINT")
        yield Meter(conn, databases, pids, broker=broker)
    finally:
        await conn.close()
