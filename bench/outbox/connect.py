"""Debezium: Kafka Connect in standalone mode with the Postgres connector and the outbox event router."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from bench.outbox.site import Site
from bench.peers import binaries
from bench.peers.driven import child
from tests.support.processes import free_port
from tests.support.waiting import eventually

#: What it watches: the columns that the event router expects by default.
TABLE: Final = """
CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
                     type varchar(255) NOT NULL, payload text NOT NULL);
CREATE PUBLICATION bench_outbox FOR TABLE outbox WITH (publish = 'insert');
"""
INSERT: Final = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
SELECT gen_random_uuid(), 'order', aggregate, 'order_created', payload FROM {rows}
"""
TUNED: Final = {
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "10",
    "producer.override.linger.ms": "5",
    "producer.override.batch.size": "524288",
    "producer.override.buffer.memory": "134217728",
    "producer.override.enable.idempotence": "true",
    "producer.override.max.in.flight.requests.per.connection": "5",
}
SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "default": {},
    "tuned": TUNED,
    "lowest latency": TUNED | {"poll.interval.ms": "1", "producer.override.linger.ms": "0"},
}


class Connect:
    """One worker with one connector; its slot keeps what is written while it is paused."""

    def __init__(self, api: str, url: str, slot: str, pid: int) -> None:
        self._api = api
        self._url = url
        self._slot = slot
        self.pids: Mapping[str, int] = {"connect": pid}

    async def resume(self) -> None:
        """Read the slot on."""
        await self._put("resume")

    async def pause(self) -> None:
        """Stop the connector and wait until it has let go of its slot."""
        await self._put("stop")
        await self.streams(False)

    async def streams(self, wanted: bool) -> None:
        """Wait until the connector reads its slot, or does not."""
        conn = await asyncpg.connect(self._url)
        try:
            query = "SELECT active FROM pg_replication_slots WHERE slot_name = $1"
            await eventually(
                lambda: conn.fetchval(query, self._slot), lambda found: found is wanted, seconds=120, every=0.1
            )
        finally:
            await conn.close()

    async def _put(self, verb: str) -> None:
        async with (
            aiohttp.ClientSession(raise_for_status=True) as http,
            http.put(f"{self._api}/connectors/outbox/{verb}", headers={"Content-Type": "application/json"}),
        ):
            return


@asynccontextmanager
async def debezium(site: Site, settings: str) -> AsyncIterator[Connect]:
    """It streams when the block begins; its slot is dropped at the end."""
    home = binaries.connect()
    port, slot = free_port(), f"bench_{site.name}"
    worker = {
        "bootstrap.servers": site.bootstrap,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.storage.StringConverter",
        "offset.storage.file.filename": str(site.directory / "offsets"),
        "offset.flush.interval.ms": "10000",
        "plugin.path": str(home / "plugins"),
        "listeners": f"http://127.0.0.1:{port}",
        "connector.client.config.override.policy": "All",
    }
    properties = site.directory / "worker.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in worker.items()))
    program = "org.apache.kafka.connect.cli.ConnectStandalone"
    argv = ("java", "-Xms1g", "-Xmx1g", "-cp", f"{home}/libs/*", program, properties)
    async with child("connect", argv, site.directory, {}) as process:
        api = f"http://127.0.0.1:{port}"
        await _answers(api)
        connect = Connect(api, site.url, slot, process.pid)
        try:
            await _create(api, connector(site, slot, settings))
            await connect.streams(True)
            yield connect
        finally:
            process.kill()
            await process.wait()
            await _drop(site.url, slot)


def connector(site: Site, slot: str, settings: str) -> dict[str, str]:
    """The connector's configuration."""
    parts = urlsplit(site.url)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": parts.hostname or "",
        "database.port": str(parts.port),
        "database.user": parts.username or "",
        "database.password": parts.password or "",
        "database.dbname": parts.path.lstrip("/"),
        "topic.prefix": "bench",
        "plugin.name": "pgoutput",
        "slot.name": slot,
        "publication.name": "bench_outbox",
        "publication.autocreate.mode": "disabled",
        "table.include.list": "public.outbox",
        "snapshot.mode": "no_data",
        "tombstones.on.delete": "false",
        "slot.drop.on.stop": "false",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.route.topic.replacement": site.topic,
        **SETTINGS[settings],
    }


async def _answers(api: str) -> None:
    async def answers() -> bool:
        try:
            # It listens before it knows its own paths.
            async with aiohttp.ClientSession() as http, http.get(f"{api}/connectors") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    await eventually(answers, seconds=120, every=0.2)


async def _create(api: str, config: Mapping[str, str]) -> None:
    body = {"name": "outbox", "config": config}
    async with aiohttp.ClientSession() as http, http.post(f"{api}/connectors", json=body) as answer:
        if answer.status != 201:
            raise RuntimeError(f"Kafka Connect refuses the connector: {await answer.text()}")


async def _drop(url: str, slot: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        query = "SELECT active FROM pg_replication_slots WHERE slot_name = $1"
        await eventually(lambda: conn.fetchval(query, slot), lambda found: found is not True, seconds=60, every=0.1)
        await conn.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", slot
        )
    finally:
        await conn.close()
