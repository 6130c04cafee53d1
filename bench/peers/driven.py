"""A contender's program at work: a process that takes orders as lines of JSON, see programs/load.py."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: From the start of the program until it is ready; from an order until its answer, above the time that it asks for.
READY_SECONDS: Final = 90
ANSWER_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """What one order brought."""

    sagas: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    outcomes: Mapping[str, int]

    @property
    def rate(self) -> float:
        """Sagas a second."""
        return self.sagas / self.seconds


class Driven:
    """One running program."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        #: Of all orders so far.
        self.outcomes: dict[str, int] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    async def order(self, **order: float) -> Answer:
        """Give an order that has no warm-up, and wait for its answer."""
        return await self._answer(order)

    async def steady(
        self,
        concurrency: int,
        warm_up: float,
        seconds: float,
        begun: Callable[[], Awaitable[None]],
        over: Callable[[], Awaitable[None]],
    ) -> Answer:
        """Keep so many sagas in work and measure behind the warm-up; `begun` and `over` are called at its ends."""
        return await self._answer({"concurrency": concurrency, "warm_up": warm_up, "seconds": seconds}, begun, over)

    async def _answer(self, order: Mapping[str, float], *marks: Callable[[], Awaitable[None]]) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        patience = order.get("warm_up", 0) + order.get("seconds", 0) + ANSWER_SECONDS
        for mark in marks:
            await self.line(patience)
            await mark()
        answer = Answer(**await self.line(patience))
        for name, count in answer.outcomes.items():
            self.outcomes[name] = self.outcomes.get(name, 0) + count
        return answer

    async def line(self, seconds: float) -> dict[str, Any]:
        """The next line of its output. RuntimeError, with the end of its log, when there is none."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                text = await self._process.stdout.readline()
        except TimeoutError:
            text = b""
        if not text:
            raise RuntimeError(f"{self._log.stem} gave no answer: {self._log.read_text(errors='replace')[-3000:]}")
        found: dict[str, Any] = json.loads(text)
        return found

    async def end(self) -> None:
        """Close its input and wait until it has left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(60):
            if code := await self._process.wait():
                raise RuntimeError(
                    f"{self._log.stem} ended with {code}: {self._log.read_text(errors='replace')[-3000:]}"
                )


@asynccontextmanager
async def driven(
    name: str, argv: Sequence[str | Path], directory: Path, environment: Mapping[str, str]
) -> AsyncIterator[Driven]:
    """The program, ready for orders; killed at the end unless it has ended."""
    async with child(name, argv, directory, environment, pipes=True) as process:
        it = Driven(process, directory / f"{name}.log")
        await it.line(READY_SECONDS)
        yield it


@asynccontextmanager
async def child(
    name: str, argv: Sequence[str | Path], directory: Path, environment: Mapping[str, str], *, pipes: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with its log in `directory`, killed at the end."""
    pipe = asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL
    with (directory / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(part) for part in argv),
            env={**os.environ, **environment},
            cwd=directory,
            stdin=pipe,
            stdout=asyncio.subprocess.PIPE if pipes else log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
