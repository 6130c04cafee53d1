"""`make bench NAME=saga`: our sagas and those of the peers, side by side in one run. Exit code 1 when a goal is missed.

Rounds are interleaved, every round has a fresh database and is verified from the contender's own tables, ratios are of one round.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench import report
from bench.goals import goal_a
from bench.harness import turn
from bench.peers import contenders
from bench.peers.contenders import Contender
from bench.peers.meter import meter
from bench.rows import Row, results

NAME: Final = "saga"


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender of the run, and how it is loaded."""

    name: str
    make: Callable[[], AbstractAsyncContextManager[Contender]]
    #: Sagas always in work; what suits it best.
    concurrency: int
    #: How many sagas one after the other; 0: not of interest.
    alone: int = 100
    #: Also at a fixed rate, half of what it did at most.
    half_rate: bool = False


ENTRIES: Final[Sequence[Entry]] = (
    Entry("marty", contenders.marty, 200, alone=300, half_rate=True),
    Entry("marty http", contenders.marty_http, 200),
    Entry("bare http client", contenders.bare_http, 200, alone=0),
    Entry("dbos", contenders.dbos, 50),
    Entry("temporal", partial(contenders.temporal, "activities"), 50, alone=20),
    Entry("temporal local activities", partial(contenders.temporal, "local-activities"), 50, alone=40),
    Entry("river", partial(contenders.river, "transaction"), 200),
    Entry("river batched", partial(contenders.river, "batched"), 200),
    Entry("restate", contenders.restate, 200),
)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long and how often."""

    rounds: int
    warm_up_seconds: float
    seconds: float


FULL: Final = Lengths(rounds=5, warm_up_seconds=5, seconds=20)
QUICK: Final = Lengths(rounds=2, warm_up_seconds=3, seconds=6)


class Void(Exception):
    """A contender's work was not what it told."""


async def run(entries: Sequence[Entry], lengths: Lengths, quick: bool) -> int:
    rows: list[Row] = []
    busy = os.getloadavg()[0]
    async with turn():
        for number in range(1, lengths.rounds + 1):
            # There and back again, so that nobody always comes first.
            for entry in entries if number % 2 else reversed(entries):
                rows += await measured(entry, number, lengths)
    goals = goal_a(rows)
    done = results(rows, [goal.line for goal in goals], quick=quick, load_before=busy)
    done.write(NAME)
    report.write()
    print("\n".join(["", *report.table(done), "", *done.goals]))
    return 0 if all(goal.met for goal in goals) else 1


async def measured(entry: Entry, number: int, lengths: Lengths) -> list[Row]:
    """One round of one contender. Raises Void."""
    began = time.perf_counter()
    async with entry.make() as it:
        async with meter(it.databases, it.pids) as cost:
            full = await it.driven.steady(
                entry.concurrency, lengths.warm_up_seconds, lengths.seconds, cost.begin, cost.end
            )
        alone = await it.driven.order(count=entry.alone, concurrency=1) if entry.alone else None
        half = None
        if entry.half_rate:
            half = await it.driven.order(seconds=lengths.seconds, rate=full.rate / 2)
        found = await it.verify(it.driven.outcomes)
        await it.driven.end()
    if wrong := {name: pair for name, pair in found.items() if pair[0] != pair[1]}:
        raise Void(f"{entry.name}: expected and found differ: {wrong}")
    verified = {name: str(pair[1]) for name, pair in found.items()} | {"answers": str(dict(it.driven.outcomes))}
    settings = {"concurrency": entry.concurrency, "seconds": lengths.seconds}
    figures: list[tuple[str, float, str]] = [
        ("throughput", full.rate, "/s"),
        ("p50", full.p50_ms, "ms"),
        ("p99", full.p99_ms, "ms"),
        *((f"cpu {name}", used / full.sagas * 1e6, "µs") for name, used in sorted(cost.cpu_seconds.items())),
    ]
    if it.databases:
        figures += [("commits", cost.commits / full.sagas, ""), ("wal", cost.wal_bytes / full.sagas, "B")]
    if alone:
        figures += [("alone p50", alone.p50_ms, "ms"), ("alone p99", alone.p99_ms, "ms")]
    if half:
        figures += [
            ("half rate", half.rate, "/s"),
            ("half rate p50", half.p50_ms, "ms"),
            ("half rate p99", half.p99_ms, "ms"),
        ]
    took = time.perf_counter() - began
    print(f"round {number}, {entry.name}: {full.rate:,.0f}/s (verified, {took:.0f} s)", flush=True)
    return [Row(entry.name, settings, number, *figure, cost.cpu_seconds, verified) for figure in figures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds: under eight minutes")
    parser.add_argument(
        "--only", nargs="+", choices=[entry.name for entry in ENTRIES], help="some contenders; no goal is told"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    given = parser.parse_args()
    lengths = QUICK if given.quick else FULL
    lengths = Lengths(given.rounds or lengths.rounds, lengths.warm_up_seconds, given.seconds or lengths.seconds)
    entries = [entry for entry in ENTRIES if not given.only or entry.name in given.only]
    return asyncio.run(run(entries, lengths, given.quick))


if __name__ == "__main__":
    sys.exit(main())
