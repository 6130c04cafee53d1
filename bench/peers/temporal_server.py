"""Temporal's server, as small as it goes for one machine, on two fresh databases of our Postgres."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from bench.peers import binaries
from bench.peers.driven import child
from dev.cluster.commands import run

#: Counts in the visibility database.
COMPLETED: Final = "SELECT count(*) FROM executions_visibility WHERE status = 2"
#: Limits out of the way; one partition of a task queue, because one worker process asks.
_DYNAMIC: Final = {
    **dict.fromkeys(
        (
            "frontend.rps",
            "frontend.namespaceRPS",
            "frontend.namespaceCount",
            "frontend.persistenceMaxQPS",
            "history.rps",
            "history.persistenceMaxQPS",
            "matching.rps",
            "matching.persistenceMaxQPS",
        ),
        50000,
    ),
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
}
HISTORY_SHARDS: Final = 16


@asynccontextmanager
async def running(directory: Path, main: str, visibility: str) -> AsyncIterator[tuple[str, int]]:
    """The server's address and pid; `main` and `visibility` are URLs of empty databases."""
    server, sql, schemas = binaries.temporal()
    for url, schema in ((main, "temporal"), (visibility, "visibility")):
        for arguments in (["setup-schema", "-v", "0.0"], ["update-schema", "-d", schemas / schema / "versioned"]):
            await asyncio.to_thread(run, [sql, *arguments], environment=_environment(url))
    frontend = _free_port()
    # JSON is YAML, too.
    configuration = directory / "temporal.yaml"
    configuration.touch(mode=0o600)
    configuration.write_text(json.dumps(_configuration(directory, frontend, main, visibility)))
    (directory / "dynamic.yaml").write_text(json.dumps({name: [{"value": it}] for name, it in _DYNAMIC.items()}))
    argv = (server, "--config-file", configuration, "--allow-no-auth", "start")
    async with child("server", argv, directory, {}) as process:
        yield f"127.0.0.1:{frontend}", process.pid


def _environment(url: str) -> Mapping[str, str]:
    """What the tool for schemas reads instead of arguments, which everybody on the machine could read."""
    parts = urlsplit(url)
    return {
        "SQL_PLUGIN": "postgres12",
        "SQL_HOST": str(parts.hostname),
        "SQL_PORT": str(parts.port),
        "SQL_USER": unquote(parts.username or ""),
        "SQL_PASSWORD": unquote(parts.password or ""),
        "SQL_DATABASE": parts.path.lstrip("/"),
    }


def _configuration(directory: Path, frontend: int, main: str, visibility: str) -> dict[str, Any]:
    services = {
        name: {"rpc": {"grpcPort": port, "membershipPort": _free_port(), "bindOnLocalHost": True}}
        for name, port in (
            ("frontend", frontend),
            ("matching", _free_port()),
            ("history", _free_port()),
            ("worker", _free_port()),
        )
    }
    cluster = {
        "enabled": True,
        "initialFailoverVersion": 1,
        "rpcName": "frontend",
        "rpcAddress": f"127.0.0.1:{frontend}",
    }
    archival = {"state": "disabled"}
    return {
        "log": {"stdout": True, "level": "warn"},
        "persistence": {
            "defaultStore": "main",
            "visibilityStore": "visibility",
            "numHistoryShards": HISTORY_SHARDS,
            "datastores": {"main": {"sql": _store(main, 40)}, "visibility": {"sql": _store(visibility, 10)}},
        },
        "global": {"membership": {"maxJoinDuration": "30s", "broadcastAddress": "127.0.0.1"}},
        "services": services,
        "clusterMetadata": {
            "enableGlobalNamespace": False,
            "failoverVersionIncrement": 10,
            "masterClusterName": "active",
            "currentClusterName": "active",
            "clusterInformation": {"active": cluster},
        },
        "dcRedirectionPolicy": {"policy": "noop"},
        "archival": {"history": archival, "visibility": archival},
        "namespaceDefaults": {"archival": {"history": archival, "visibility": archival}},
        "dynamicConfigClient": {"filepath": str(directory / "dynamic.yaml"), "pollInterval": "10s"},
    }


def _free_port() -> int:
    """The server keeps its ports in columns of type smallint, so those that the kernel chooses are too high."""
    while True:
        port = random.randrange(17_000, 32_000)
        with socket(AF_INET, SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _store(url: str, connections: int) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "pluginName": "postgres12",
        "databaseName": parts.path.lstrip("/"),
        "connectAddr": f"{parts.hostname}:{parts.port}",
        "connectProtocol": "tcp",
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "maxConns": connections,
        "maxIdleConns": connections,
        "maxConnLifetime": "1h",
    }
