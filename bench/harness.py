"""What every benchmark shares: a fresh database, what a run cost, its verification, and the result as a line and as data."""

import asyncio
import json
import os
import platform
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from bench.report import write as write_page
from tests.support.postgres import admin_url, database, ensure_template
from tests.support.processes import Process, free_port, running

RESULTS = Path(__file__).parent / "results"
WARM_UP_ITEMS = 5_000
#: A shorter measurement is void: it would tell of the start more than of the work.
LEAST_SECONDS = 30
#: A worker that needs longer for its backlog hangs.
MOST_SECONDS = 600
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Cost:
    """What happened between the beginning and the end of a measurement."""

    items: int = 0
    seconds: float = 0
    commits: int = 0
    wal_bytes: int = 0
    #: CPU-seconds by process group: worker, postgres, kafka, bench (this process).
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark's outcome. A run that fails its verification is void."""

    name: str
    unit: str
    floor: float
    cost: Cost
    settings: Mapping[str, object]
    #: What was checked and what was found, for instance {"events in Kafka": "2005000 of 2005000"}.
    verified: Mapping[str, str]
    failures: tuple[str, ...] = ()
    #: Further numbers, for instance latencies in milliseconds.
    more: Mapping[str, float] = field(default_factory=dict)


@asynccontextmanager
async def fresh_database() -> AsyncIterator[str]:
    """The URL of an empty, migrated database with fsync on, dropped at the end. One benchmark at a time per server."""
    template = await ensure_template()
    async with turn(), database(template) as url:
        yield url


@asynccontextmanager
async def turn() -> AsyncIterator[None]:
    """Until the block ends no other benchmark runs on this server. RuntimeError when what it commits is not durable."""
    conn = await asyncpg.connect(admin_url())
    async with _closing(conn):
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            if (value := await conn.fetchval("SELECT current_setting($1)", setting)) != "on":
                raise RuntimeError(f"{setting} is {value}: nothing durable would be measured")
        if not await conn.fetchval("SELECT pg_try_advisory_lock(hashtextextended('marty.bench', 0))"):
            print("waiting for another benchmark to end", flush=True)
            await conn.execute("SELECT pg_advisory_lock(hashtextextended('marty.bench', 0))")
        yield


@asynccontextmanager
async def _closing(conn: asyncpg.Connection) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await conn.close()


@asynccontextmanager
async def measure(url: str, worker_pids: Mapping[str, int] | None = None) -> AsyncIterator[Cost]:
    """Fill the yielded Cost when the block ends; the block sets `items`. `worker_pids`: label -> pid of other processes."""
    conn = await asyncpg.connect(url)
    try:
        cost = Cost()
        await conn.execute("CHECKPOINT")
        commits, wal = await _commits(conn), await _wal(conn)
        before = cpu_by_process(worker_pids or {})
        began = time.perf_counter()
        yield cost
        cost.seconds = time.perf_counter() - began
        cost.cpu_seconds = cpu_since(before, cpu_by_process(worker_pids or {}))
        cost.wal_bytes = await _wal(conn) - wal
        cost.commits = await _commits(conn) - commits
    finally:
        await conn.close()


@dataclass(frozen=True, slots=True)
class Backlog:
    """Work that lies ready for one real worker process, `marty run <role>`."""

    role: str
    #: The worker's configuration, as the operator renders it.
    config: str
    #: Items, the warm-up among them.
    total: int
    #: How many items are done for good, read from the worker's own tables.
    done: Callable[[asyncpg.Connection], Awaitable[int]]

    async def drain(self, url: str) -> Cost:
        """Start the worker, measure from the end of the warm-up until all is done, and stop it with SIGTERM."""
        environment = {
            "MARTY_DATABASE_URL": url,
            "MARTY_TOKEN": "benchmark-token-0",
            "MARTY_HTTP_HOST": "127.0.0.1",
            "MARTY_HTTP_PORT": str(free_port()),
        }
        conn = await asyncpg.connect(url)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "config.json"
            path.write_text(self.config)
            command = ["-m", "marty_msf.cli", "run", self.role, "--config", str(path)]
            async with _closing(conn), running(command, Path(directory) / "log", environment) as worker:
                await self._reach(conn, WARM_UP_ITEMS, worker)
                async with measure(url, {"worker": worker.pid}) as cost:
                    before = await self.done(conn)
                    cost.items = await self._reach(conn, self.total, worker) - before
                worker.send(signal.SIGTERM)
                if await worker.wait() != 0:
                    raise RuntimeError(worker.output()[-3000:])
        if not cost.items:
            raise RuntimeError(f"all {self.total} items were done before the measurement began: give it more work")
        return cost

    async def _reach(self, conn: asyncpg.Connection, count: int, worker: Process) -> int:
        """Wait until at least `count` items are done; returns how many are."""
        deadline = time.monotonic() + MOST_SECONDS
        while (now := await self.done(conn)) < count:
            if worker.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the {self.role} stands at {now} of {count}:\n{worker.output()[-3000:]}")
            await asyncio.sleep(0.05)
        return now


def report(result: Result) -> int:
    """Print the result, write it to bench/results/<name>.json and docs/benchmarks.md, and return the exit code: 1 when short or void."""
    cost = result.cost
    if cost.seconds < LEAST_SECONDS:
        short = f"measured {cost.seconds:.0f} s, less than {LEAST_SECONDS}: give it more work"
        result = replace(result, failures=(*result.failures, short))
    met = cost.rate >= result.floor and not result.failures
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result.name}.json").write_text(
        json.dumps(
            {
                **asdict(result),
                "rate": round(cost.rate, 1),
                "met": met,
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
            },
            indent=2,
        )
        + "\n"
    )
    write_page()
    print(f"\n{result.name}: {cost.items} items in {cost.seconds:.1f} s")
    print(
        f"  commits {cost.commits} ({cost.commits / cost.items:.4f} an item), WAL {cost.wal_bytes / 1e6:.1f} MB "
        f"({cost.wal_bytes / cost.items:.0f} B an item)"
    )
    for name, seconds in cost.cpu_seconds.items():
        print(f"  CPU {name}: {seconds:.1f} s ({seconds / cost.items * 1e6:.1f} µs an item)")
    for name, value in result.more.items():
        print(f"  {name}: {value}")
    for name, found in result.verified.items():
        print(f"  verified {name}: {found}")
    for failure in result.failures:
        print(f"  VOID: {failure}")
    print(
        f"FLOOR {result.name}: {cost.rate:,.0f} {result.unit}, floor {result.floor:,.0f}: {'met' if met else 'short'}"
    )
    return 0 if met else 1


def cpu_by_process(pids: Mapping[str, int]) -> dict[tuple[str, int], float]:
    """(group, pid) -> CPU-seconds so far: this process, the given ones, every Postgres process and Kafka broker.

    Looked at until two looks in a row see the same processes: what a session has used that ends between the look at its
    postmaster and the look at itself would be nobody's.
    """
    return settled(lambda: _look(pids))


def settled(look: Callable[[], dict[tuple[str, int], float]]) -> dict[tuple[str, int], float]:
    """The first look that sees the processes of the one before."""
    before, found = look(), look()
    while before.keys() != found.keys():
        before, found = found, look()
    return found


def _look(pids: Mapping[str, int]) -> dict[tuple[str, int], float]:
    found = {("bench", os.getpid()): _cpu(os.getpid(), children=False)}
    for name, pid in pids.items():
        found[name, pid] = _cpu(pid, children=True)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            pid = int(entry.name)
            try:
                command = (entry / "cmdline").read_bytes()
                if (entry / "comm").read_text().strip() == "postgres":
                    # The postmaster waits for its children, so the sessions that ended are in its account.
                    found["postgres", pid] = _cpu(pid, children=b"-D" in command)
                elif b"kafka.Kafka" in command:
                    found["kafka", pid] = _cpu(pid, children=False)
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def cpu_since(before: Mapping[tuple[str, int], float], after: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """CPU-seconds of each group between two looks of `cpu_by_process`.

    A session that ended meanwhile is in its postmaster's account with its whole life; what it had used before is taken off.
    """
    used: dict[str, float] = {}
    for sign, found in ((1, after), (-1, before)):
        for (name, _), seconds in found.items():
            used[name] = used.get(name, 0.0) + sign * seconds
    return {name: round(seconds, 2) for name, seconds in used.items()}


def _cpu(pid: int, *, children: bool) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = [int(value) for value in fields[11:15]]  # utime, stime, and those of children that were waited for
    return sum(ticks if children else ticks[:2]) / _TICKS


async def _wal(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


async def _commits(conn: asyncpg.Connection) -> int:
    """Commits of this database that the sessions have reported; they report at the latest a second after their last."""
    await conn.execute("SELECT pg_sleep(1.1)")
    await conn.execute("SELECT pg_stat_clear_snapshot()")
    return int(await conn.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))
