"""The client of tests.support.zygote: processes that are forked instead of started."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.processes import PATHS, start_with
from tests.support.servers import ROOT

READY_SECONDS = 60


class Forked:
    """A process that the zygote has forked; it is reaped there, and its exit code comes over the connection."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._writer = writer
        self._ended = asyncio.create_task(self._end(reader))

    async def _end(self, reader: asyncio.StreamReader) -> int:
        self.returncode = int(await reader.readline())
        self._writer.close()
        return self.returncode

    async def wait(self) -> int:
        """The exit code."""
        return await asyncio.shield(self._ended)

    def send_signal(self, signal: int) -> None:
        """Unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal)


class Zygote:
    """The process that forks; started when the first one is wanted."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "socket"
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Forked:
        """`python -m ARGUMENTS`, with its output appended to `log`."""
        self._prepare(log)
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        request = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        writer.write(json.dumps(request).encode() + b"\n")
        return Forked(int(await reader.readline()), reader, writer)

    def end(self) -> None:
        """End it, and whatever is left of what it started."""
        if self._process is not None:
            self._process.communicate(timeout=READY_SECONDS)

    def _prepare(self, log: Path) -> None:
        if self._process is None:
            self._begin()
        # Whoever looks at it may come before the process.
        log.touch()

    def _begin(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.zygote", str(self._socket)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": PATHS},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the process that forks others did not start:\n{self._log.read_text()}")
            time.sleep(0.05)


@contextmanager
def forking() -> Iterator[None]:
    """Within the block `processes.running` forks."""
    with tempfile.TemporaryDirectory(prefix="marty-zygote-") as made:
        zygote = Zygote(Path(made))
        start_with(zygote.start)
        try:
            yield
        finally:
            start_with(None)
            zygote.end()
