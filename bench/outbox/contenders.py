"""Who takes part: what its outbox is, how an event gets into it, and its relay."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time_ns
from typing import Any, Final

import asyncpg

from bench.outbox import connect
from bench.outbox.rows import FUNCTIONS, live_rows
from bench.outbox.site import Running, Site
from bench.outbox.topic import PARTITIONS, Topic
from bench.peers import binaries
from bench.peers.contenders import OUR_PATH
from marty_msf.worker.groups import TaskGroup, first_error
from tests.support.kafka import create_topic, delete_topics
from tests.support.postgres import database, ensure_template
from tests.support.processes import free_port
from tests.support.servers import server

#: What the library's enqueue_event_bytes inserts, without its checks: loading a backlog is not what is measured.
_OURS: Final = """
INSERT INTO marty.outbox (lane, topic, event_type, aggregate_type, aggregate_id, payload)
SELECT marty.lane_of(aggregate), '{topic}', 'order_created', 'order', aggregate, convert_to(payload, 'UTF8')
  FROM {rows}
"""
_OURS_LIVE: Final = """
SELECT count(marty.enqueue_event_bytes('{topic}', 'order_created', convert_to(payload, 'UTF8'), aggregate, 'order'))
  FROM {rows}
"""
_OURS_TOGETHER: Final = """
SELECT count(*) FROM (SELECT array_agg(aggregate) AS ids, array_agg(convert_to(payload, 'UTF8')) AS payloads,
                             count(*)::integer AS n FROM {rows}) AS given,
       marty.enqueue_events_bytes(
           array_fill('{topic}'::text, ARRAY[n]), array_fill('order_created'::text, ARRAY[n]), payloads, ids,
           array_fill('order'::text, ARRAY[n]), array_fill('{}'::jsonb, ARRAY[n]), array_fill('normal'::text, ARRAY[n]),
           array_fill(NULL::integer, ARRAY[n]), array_fill(NULL::timestamptz, ARRAY[n]), array_fill(NULL::text, ARRAY[n]))
"""
_QUEUE: Final = """
CREATE EXTENSION pgq;
SELECT pgq.create_queue('outbox');
SELECT pgq.set_queue_config('outbox', 'ticker_max_lag', '2 milliseconds');
SELECT pgq.register_consumer('outbox', 'relay');
"""
_TICK: Final = "SELECT pgq.ticker('outbox')"
_PGQ: Final = "SELECT count(pgq.insert_event('outbox', 'order_created', payload, aggregate, '', '', '')) FROM {rows}"
_TABLE: Final = """
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate text NOT NULL, payload text NOT NULL)
"""
_SIMPLE: Final = "INSERT INTO outbox (aggregate, payload) SELECT aggregate, payload FROM {rows}"

#: So many events in one transaction of an application: how it puts them into its outbox.
PUT: Final[Mapping[int, str]] = {1: "bench_put_one()", 5: "bench_put_five()"}

Start = Callable[[Site], AbstractAsyncContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One relay and its outbox."""

    name: str
    start: Start
    #: Makes its outbox in an empty database; ours is in the template.
    schema: str | None
    #: Inserts all of `{rows}`, a table of (aggregate, payload), and the same as an application does it.
    insert: str
    live: str
    #: As an application does it that has several events in one transaction, if there is a way of its own for that.
    together: str | None = None
    #: Part of the full drain's events; for one that is far slower.
    share: float = 1
    after_each: str | None = None
    #: Makes what it is made of available on this machine.
    ready: Callable[[], object] = lambda: None


def marty(name: str = "marty", **spec: Any) -> Contender:
    """Our worker process; `spec` are fields of the resource besides database and kafka, the others have their defaults."""
    return Contender(name, partial(_ours, spec=spec), None, _OURS, _OURS_LIVE, _OURS_TOGETHER)


def debezium(settings: str) -> Contender:
    """Kafka Connect with one of connect.SETTINGS."""
    insert = connect.INSERT
    start = partial(connect.debezium, settings=settings)
    return Contender(f"debezium {settings}", start, connect.TABLE, insert, insert, ready=binaries.connect)


def pgq() -> Contender:
    """PgQ with a small consumer."""
    start = partial(_program, program="pgq_relay.py")
    return Contender("pgq", start, _QUEUE, _PGQ, _PGQ, after_each=_TICK, ready=binaries.pgq)


def skip_locked() -> Contender:
    """What most teams write first."""
    start = partial(_program, program="skip_locked_relay.py")
    return Contender("skip locked", start, _TABLE, _SIMPLE, _SIMPLE, share=0.1)


@dataclass(frozen=True, slots=True)
class Stage:
    """A contender with its own database and topic."""

    site: Site
    topic: Topic
    #: Loads a part of a backlog: takes first, last, writer.
    insert: str


@asynccontextmanager
async def stage(contender: Contender, **topic_settings: str) -> AsyncIterator[Stage]:
    """Everything but the relay itself. The database has the functions of PUT."""
    contender.ready()
    bootstrap = server("MARTY_TEST_KAFKA")
    name = f"{contender.name.replace(' ', '_')}_{time_ns() // 1_000_000}"
    create_topic(bootstrap, name, PARTITIONS, {"message.timestamp.type": "LogAppendTime", **topic_settings})
    template = None if contender.schema else await ensure_template()
    async with AsyncExitStack() as stack:
        stack.callback(delete_topics, bootstrap, [name])
        url = await stack.enter_async_context(database(template))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="marty-bench-")))
        topic = Topic(bootstrap, name)
        stack.callback(topic.close)
        insert = contender.insert.replace("{topic}", name)
        conn = await asyncpg.connect(url)
        try:
            if contender.schema:
                await conn.execute(contender.schema)
            await conn.execute(FUNCTIONS)
            for count in PUT:
                live = contender.together if contender.together and count > 1 else contender.live
                live = live.replace("{topic}", name).replace("{rows}", live_rows(count))
                await conn.execute(_put_function(live, count))
        finally:
            await conn.close()
        rows = insert.replace("{rows}", "bench_rows($1, $2, $3)")
        yield Stage(Site(name, url, bootstrap, name, directory), topic, rows)


def _put_function(statement: str, count: int) -> str:
    """In PL/pgSQL, and without a parameter: so its plan is kept, as that of an application's prepared statement.

    A function in SQL is planned at each call, which costs more than any outbox.
    """
    performed = statement.strip().removeprefix("SELECT ")
    body = statement if performed == statement.strip() else f"PERFORM {performed}"
    return f"CREATE FUNCTION {PUT[count]} RETURNS void LANGUAGE plpgsql AS $$ BEGIN {body}; END $$"


class Program:
    """A relay that is a process of its own: paused by SIGTERM, resumed by a new one."""

    def __init__(self, argv: Sequence[str | Path], directory: Path, environment: Mapping[str, str]) -> None:
        self._argv = [str(part) for part in argv]
        self._directory = directory
        self._environment = {**os.environ, "PYTHONPATH": OUR_PATH, **environment}
        self._process: asyncio.subprocess.Process | None = None
        self._resumed = asyncio.Event()
        self.pids: Mapping[str, int] = {}

    async def resume(self) -> None:
        """Start it."""
        with (self._directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                cwd=self._directory,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pids = {"relay": self._process.pid}
        self._resumed.set()

    async def pause(self) -> None:
        """End it. RuntimeError when it had ended by itself."""
        self._resumed.clear()
        if self._process is None:
            return
        if self._process.returncode is not None:
            raise self._ended(self._process)
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await self._process.wait()
        self._process = None

    async def watch(self) -> None:
        """Until cancelled. RuntimeError when it ends by itself: nobody is to wait for what it does not do then."""
        while True:
            await self._resumed.wait()
            process = self._process
            assert process is not None, "it was resumed"
            await process.wait()
            if self._process is process and self._resumed.is_set():
                raise self._ended(process)

    def _ended(self, process: asyncio.subprocess.Process) -> RuntimeError:
        log = (self._directory / "log").read_text()[-3000:]
        return RuntimeError(f"the relay ended by itself, with code {process.returncode}: {log}")

    async def kill(self) -> None:
        """Make sure that it is gone."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def _program(site: Site, program: str) -> AsyncIterator[Program]:
    environment = {"DATABASE_URL": site.url, "KAFKA": site.bootstrap, "TOPIC": site.topic}
    async with _started(Program((sys.executable, binaries.SOURCES / program), site.directory, environment)) as it:
        yield it


@asynccontextmanager
async def _ours(site: Site, spec: Mapping[str, Any]) -> AsyncIterator[Program]:
    config = site.directory / "config.json"
    kafka = {"bootstrapServers": site.bootstrap, **spec.get("kafka", {})}
    whole = {**spec, "database": {"urlSecretRef": {"name": "bench"}}, "kafka": kafka}
    config.write_text(json.dumps({"role": "relay", "namespace": "bench", "name": "relay", "spec": whole}))
    environment = {
        "MARTY_DATABASE_URL": site.url,
        "MARTY_TOKEN": "benchmark-token-0",
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(free_port()),
    }
    argv = (sys.executable, "-m", "marty_msf.cli", "run", "relay", "--config", config)
    async with _started(Program(argv, site.directory, environment)) as it:
        yield it


@asynccontextmanager
async def _started(program: Program) -> AsyncIterator[Program]:
    try:
        await program.resume()
        async with TaskGroup() as tasks:
            watching = tasks.create_task(program.watch())
            yield program
            watching.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from group
    finally:
        await program.kill()
