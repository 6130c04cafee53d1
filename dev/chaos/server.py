"""A PostgreSQL of the run's own, with the programs of the local cluster: it may be stopped and crashed as one likes."""

import asyncio
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from dev.cluster.layout import LOOPBACK, POSTGRES_USER
from dev.cluster.postgres import PROGRAMS, as_server_user, give_to_server, initialise
from tests.support.processes import free_port
from tests.support.waiting import eventually

START_SECONDS: Final = 60
#: Connections end, what was not committed is gone, the server goes in good order.
ORDERLY: Final = signal.SIGINT
#: All its processes end at once; the next start recovers from the write-ahead log.
CRASH: Final = signal.SIGQUIT


class Server:
    """One server process after the other on the same data and port. fsync and synchronous_commit are on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._secret = secrets.token_urlsafe(16)
        self._process: asyncio.subprocess.Process | None = None

    def url(self, database: str) -> str:
        """Of one of its databases, for the administrator."""
        return f"postgresql://{POSTGRES_USER}:{self._secret}@{LOOPBACK}:{self._port}/{database}"

    async def make(self) -> None:
        """Make the data directory; blocks for a second."""
        data = self._directory / "data"
        initialise(data, self._secret)
        settings = {
            "port": self._port,
            "listen_addresses": f"'{LOOPBACK}'",
            "unix_socket_directories": "''",
            "max_connections": 100,
            "max_prepared_transactions": 10,
        }
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    async def start(self) -> None:
        """Return once it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *as_server_user(),
                str(PROGRAMS / "postgres"),
                "-D",
                str(self._directory / "data"),
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await eventually(self._answers, seconds=START_SECONDS, every=0.05)

    async def stop(self, how: signal.Signals) -> None:
        """End the running process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()

    async def restart(self, how: signal.Signals) -> None:
        """Stop and start again."""
        await self.stop(how)
        await self.start()

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError(f"PostgreSQL did not start: {(self._directory / 'log').read_text()[-2000:]}")
        try:
            conn = await asyncpg.connect(self.url("postgres"), timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await conn.close()
        return True


@asynccontextmanager
async def running_server() -> AsyncIterator[Server]:
    """A fresh server, gone with its data at the end."""
    directory = Path(tempfile.mkdtemp(prefix="marty-chaos-"))
    give_to_server(directory)
    server = Server(directory)
    try:
        await server.make()
        await server.start()
        yield server
    finally:
        await server.stop(CRASH)
        shutil.rmtree(directory)
