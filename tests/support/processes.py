"""Real processes for tests: started, awaited, killed with -9 by their own pid."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket
from typing import Final, Protocol

from tests.support.servers import ROOT

#: What is shown of a process's output when its test fails.
LOG_END_CHARACTERS: Final = 8_000
PATHS: Final = os.pathsep.join(str(ROOT / path) for path in ("operator", "runtime", "examples/shop", "."))


class Started(Protocol):
    """What a way of starting a process answers with; asyncio's own processes are of this kind."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def send_signal(self, signal: int) -> None: ...


class Process:
    """A child process whose output is kept in a file."""

    def __init__(self, process: Started, log: Path) -> None:
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
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()


#: Another way to start `python -m`, for whoever starts very many; see tests.support.forking.
Starter = Callable[[Sequence[str], Path, Mapping[str, str]], Awaitable[Started]]
_starter: Starter | None = None


def start_with(starter: Starter | None) -> None:
    """From now on `running` starts modules with this; None: as a new interpreter each."""
    global _starter
    _starter = starter


@asynccontextmanager
async def running(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """`python ARGUMENTS` as a child; killed at the end whatever happens."""
    whole = {**os.environ, "PYTHONPATH": PATHS, "PYTHONUNBUFFERED": "1", **(environment or {})}
    # Another path means other modules than those that were imported ahead.
    if _starter is not None and arguments[0] == "-m" and whole["PYTHONPATH"] == PATHS:
        process = Process(await _starter(arguments[1:], log, whole), log)
    else:
        process = Process(await _interpreter(arguments, log, whole), log)
    try:
        yield process
    except BaseException:
        # pytest shows it below the failure; the file itself is gone by the time somebody reads the report of a CI run.
        print(f"--- the end of {log.name}:\n{process.output()[-LOG_END_CHARACTERS:]}")
        raise
    finally:
        await process.kill()


async def _interpreter(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Started:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket(AF_INET, SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
