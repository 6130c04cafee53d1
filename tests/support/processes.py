"""Real processes for tests: started, awaited, killed with -9 by their own pid."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket

from tests.support.servers import ROOT

_PATHS = ("operator", "runtime", "examples/shop", ".")


class Process:
    """A child process whose output is kept in a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def output(self) -> str:
        """Everything written so far."""
        return self._log.read_text(errors="replace")

    async def wait(self, seconds: float = 30) -> int:
        """The exit code; negative is the signal that ended it."""
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"process {self.pid} still runs after {seconds} s:\n{self.output()}") from None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, SIGKILL for instance."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it with -9 unless it has ended, and reap it."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def running(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """`python ARGUMENTS` as a child; killed at the end whatever happens."""
    with log.open("ab") as output:
        process = Process(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in _PATHS),
                    "PYTHONUNBUFFERED": "1",
                    **(environment or {}),
                },
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            ),
            log,
        )
    try:
        yield process
    finally:
        await process.kill()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket(AF_INET, SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
