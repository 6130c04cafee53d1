"""Relays as pods run them: real processes of `marty run relay` with their HTTP surface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from marty_msf.core.worker_status import ProblemReason, RelayTotals, WorkerStatus
from tests.support.processes import Process, free_port, running
from tests.support.waiting import eventually

TOKEN = "token-of-the-test"


@dataclass(frozen=True, slots=True)
class Worker:
    """A running worker and its address."""

    process: Process
    url: str

    async def get(self, path: str, token: str | None = TOKEN) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with aiohttp.ClientSession() as http, http.get(self.url + path, headers=headers) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def status(self) -> WorkerStatus | None:
        code, text = await self.get("/status")
        return WorkerStatus.model_validate_json(text) if code == 200 else None

    async def reasons(self) -> set[ProblemReason]:
        found = await self.status()
        return {problem.reason for problem in found.problems} if found else {ProblemReason.STARTING}

    async def ready(self, seconds: float = 20) -> None:
        await eventually(lambda: self.get("/readyz"), lambda answer: answer[0] == 200, seconds=seconds)

    async def published(self) -> int:
        found = await self.status()
        return found.totals.published_total if found and isinstance(found.totals, RelayTotals) else 0


@asynccontextmanager
async def worker(config: Path, database_url: str, directory: Path, pod: str = "pod") -> AsyncIterator[Worker]:
    """Its output goes to a file in the directory."""
    port = free_port()
    environment = {
        "MARTY_DATABASE_URL": database_url,
        "MARTY_TOKEN": TOKEN,
        "MARTY_POD_NAME": pod,
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(port),
    }
    arguments = ["-m", "marty_msf.cli", "run", "relay", "--config", str(config)]
    async with running(arguments, directory / f"{pod}.log", environment) as process:
        yield Worker(process, f"http://127.0.0.1:{port}")
