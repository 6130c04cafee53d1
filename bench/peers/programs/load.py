"""How every contender is driven: orders as lines of JSON on standard input, answers as lines of JSON on standard output.

    {"concurrency": 50, "warm_up": 5, "seconds": 20}   closed loop: so many sagas are always in work
    {"concurrency": 1, "count": 100}                   the same for so many sagas
    {"rate": 4000, "seconds": 20}                      open loop: one saga each 1/rate seconds, however long the others take

The answer comes when all sagas have ended: {"sagas", "seconds", "p50_ms", "p99_ms", "max_ms", "outcomes": {name: count}}. After a
warm-up only what ends within the `seconds` behind it is measured, so neither the first sagas nor the last ones of a slow contender
distort its rate; a line {"mark": …} tells when that time begins and when it is over. `outcomes` counts all. In the open loop a
latency counts from the time at which the saga was due, so a contender that falls behind cannot hide it.

Standard library only: it runs in the peers' own environments.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

#: Every so many sagas are refused at their third step and compensate.
REFUSED_EACH = 20
COMPLETED = "completed"
COMPENSATED = "compensated"


class Load:
    """Runs orders. `one(number)` starts the saga with this number and returns how it ended, when that is durable."""

    def __init__(self, one: Callable[[int], Awaitable[str]]) -> None:
        self._one = one
        self._next = 0

    async def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do one order; returns its answer."""
        self._outcomes: Counter[str] = Counter()
        self._latencies: list[float] = []
        began = time.perf_counter()
        if "rate" in order:
            await self._open(order["rate"], order["seconds"])
        elif "count" in order:
            await self._closed(order["concurrency"], self._next + order["count"])
        else:
            return await self._steady(order["concurrency"], order["warm_up"], order["seconds"])
        return answer(time.perf_counter() - began, self._latencies, self._outcomes)

    async def _closed(self, concurrency: int, last: int) -> None:
        """Run sagas up to the number `last`; it may be lowered under way."""
        self._last = last

        async def customer() -> None:
            while self._next < self._last:
                number = self._next
                self._next += 1
                await self._timed(number, time.perf_counter())

        await asyncio.gather(*(customer() for _ in range(concurrency)))

    async def _steady(self, concurrency: int, warm_up: float, seconds: float) -> dict[str, Any]:
        """Measure in the midst of a closed loop."""
        running = asyncio.ensure_future(self._closed(concurrency, sys.maxsize))
        await asyncio.wait({running}, timeout=warm_up)
        say({"mark": "begun"})
        began, self._latencies = time.perf_counter(), []
        await asyncio.wait({running}, timeout=seconds)
        took, measured = time.perf_counter() - began, list(self._latencies)
        say({"mark": "over"})
        self._last = 0
        await running
        return answer(took, measured, self._outcomes)

    async def _open(self, rate: float, seconds: float) -> None:
        """Those that are due begin at each look at the clock; a look comes at least every millisecond."""
        began = time.perf_counter()
        total = int(rate * seconds)
        tasks: set[asyncio.Task[None]] = set()
        for index in range(total):
            due = began + index / rate
            while (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(self._timed(self._next, due))
            self._next += 1
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if index % 64 == 63:
                await asyncio.sleep(0)
        while tasks:
            await asyncio.wait(tasks)

    async def _timed(self, number: int, since: float) -> None:
        outcome = await self._one(number)
        self._latencies.append(time.perf_counter() - since)
        self._outcomes[outcome] += 1


def answer(seconds: float, latencies: list[float], outcomes: Counter[str]) -> dict[str, Any]:
    """The line for one order."""
    ordered = sorted(latencies)
    return {
        "sagas": len(ordered),
        "seconds": seconds,
        "p50_ms": _at(ordered, 0.5),
        "p99_ms": _at(ordered, 0.99),
        "max_ms": _at(ordered, 1),
        "outcomes": dict(outcomes),
    }


def _at(ordered: list[float], share: float) -> float:
    """The latency in milliseconds under which this share stays."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


def say(line: dict[str, Any]) -> None:
    """Write a line."""
    print(json.dumps(line), flush=True)


async def serve(one: Callable[[int], Awaitable[str]]) -> None:
    """Say that we are ready, and do orders until standard input ends."""
    load = Load(one)
    say({"mark": "ready"})
    while line := await asyncio.to_thread(sys.stdin.readline):
        say(await load.order(json.loads(line)))
