"""The workers as a kubelet runs them: real processes of `marty run`, started again whenever they end."""

import asyncio
import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from marty_msf.core.worker_status import WorkerStatus
from tests.support.processes import Process, free_port, running

TOKEN: Final = "chaos-run-token-0"
#: A kubelet waits this long between two looks at a container.
RESTART_SECONDS: Final = 0.2
#: More than the 30 s of a pod, because the machine may be busy.
STOP_SECONDS: Final = 60


@dataclass(slots=True)
class Pod:
    """One worker. It has a port for life, and one process after the other."""

    number: int
    config: Path
    database_url: str
    directory: Path
    role: str = "saga"
    port: int = field(default_factory=free_port)
    killed: int = 0
    #: How processes ended that nobody killed: there must be none before the end.
    crashes: list[str] = field(default_factory=list)
    _process: Process | None = None
    _leaving: bool = False

    @property
    def url(self) -> str:
        """Of its HTTP surface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What all its processes wrote."""
        return self.directory / f"worker-{self.number}.log"

    async def run(self) -> None:
        """Keep a process running until `leave`."""
        environment: Mapping[str, str] = {
            "MARTY_DATABASE_URL": self.database_url,
            "MARTY_TOKEN": TOKEN,
            "MARTY_HTTP_HOST": "127.0.0.1",
            "MARTY_HTTP_PORT": str(self.port),
            "MARTY_POD_NAME": f"worker-{self.number}",
            "MARTY_LOG_LEVEL": "WARNING",
        }
        arguments = ["-m", "marty_msf.cli", "run", self.role, "--config", str(self.config)]
        while not self._leaving:
            killed = self.killed
            async with running(arguments, self.log, environment) as self._process:
                code = await self._process.wait(1e9)
            if self.killed == killed and not self._leaving:
                self.crashes.append(f"ended with {code}")
            await asyncio.sleep(RESTART_SECONDS)

    def kill(self) -> bool:
        """End its process with -9; False when there is none at the moment."""
        if self._process is None or self._process.returncode is not None:
            return False
        self.killed += 1
        self._process.send(signal.SIGKILL)
        return True

    async def leave(self) -> None:
        """End its process as a deletion of the pod does, and note how it went."""
        self._leaving = True
        if self._process is not None and self._process.returncode is None:
            self._process.send(signal.SIGTERM)
            try:
                if code := await self._process.wait(STOP_SECONDS):
                    self.crashes.append(f"ended with {code}")
            except AssertionError:
                self.crashes.append(f"did not end within {STOP_SECONDS} s of SIGTERM")

    async def is_ready(self, client: aiohttp.ClientSession) -> bool:
        """What its readiness probe says."""
        try:
            async with client.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def holder(self, client: aiohttp.ClientSession) -> str | None:
        """As whom its process owns lanes; None when it does not answer."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            async with client.get(f"{self.url}/status", headers=headers) as answer:
                return WorkerStatus.model_validate_json(await answer.read()).local.holder
        except aiohttp.ClientError:
            return None

    def errors(self) -> Iterator[str]:
        """Lines of level ERROR in its log: none of what happens to it is its own fault."""
        for text in self.log.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                # A traceback of the interpreter's, or a line cut off by the kill.
                if "Error" in text:
                    yield text
                continue
            if line["level"] in {"ERROR", "CRITICAL"}:
                yield f"{line['message']}: {line.get('exception', '')[-1500:]}"
