"""`make bench NAME=outbox`: our relay and its peers, side by side in one run. Exit code 1 when a goal is missed.

Rounds are interleaved, everybody has a fresh database and topic each time, and all events are counted in Kafka afterwards.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from bench import report
from bench.harness import turn
from bench.outbox.contenders import debezium, marty, pgq, skip_locked
from bench.outbox.goals import goals
from bench.outbox.ours import open_writer, urgent, writers
from bench.outbox.outcome import Outcome
from bench.outbox.topic import warm_up
from bench.outbox.work import drain, live
from bench.rows import Row, results
from tests.support.servers import server

NAME: Final = "outbox"
RATES: Final = (1_000, 5_000)
URGENT_RATE: Final = 100
OPEN_WRITER_RATE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """How much, how long and how often."""

    rounds: int
    events: int
    live_seconds: int
    open_seconds: int
    writer_seconds: int


FULL: Final = Lengths(rounds=3, events=2_000_000, live_seconds=60, open_seconds=60, writer_seconds=20)
QUICK: Final = Lengths(rounds=1, events=800_000, live_seconds=15, open_seconds=15, writer_seconds=8)

Job = tuple[str, str, Callable[[], Awaitable[Outcome]]]


def jobs(lengths: Lengths, spec: Mapping[str, Any]) -> list[Job]:
    """What one round consists of: kind of work, contender, work. `spec`: fields of our relay's that are not the default."""
    ours = marty(**spec)
    drained = [ours, debezium("default"), debezium("tuned"), pgq(), skip_locked()]
    followed = [ours, debezium("lowest latency"), pgq()]
    return [
        *(("drain", it.name, partial(drain, it, lengths.events)) for it in drained),
        *(("live", it.name, partial(live, it, RATES, lengths.live_seconds // 2, lengths.live_seconds)) for it in followed),
        ("urgent", "marty", partial(urgent, ours, lengths.events, URGENT_RATE)),
        ("open writer", "marty", partial(open_writer, ours, OPEN_WRITER_RATE, lengths.open_seconds)),
        *(
            ("writer", name, partial(writers, it, lengths.writer_seconds))
            for name, it in (("no outbox", None), ("marty", ours), ("debezium default", debezium("default")), ("pgq", pgq()))
        ),
    ]  # fmt: skip


async def run(
    lengths: Lengths, only: Sequence[str], kinds: Sequence[str], spec: Mapping[str, Any], *, quick: bool
) -> int:
    rows: list[Row] = []
    busy = os.getloadavg()[0]
    wanted = [job for job in jobs(lengths, spec) if (not only or job[1] in only) and (not kinds or job[0] in kinds)]
    async with turn():
        await asyncio.to_thread(warm_up, server("MARTY_TEST_KAFKA"))
        for number in range(1, lengths.rounds + 1):
            # There and back again, so that nobody always comes first.
            for kind, name, work in wanted if number % 2 else reversed(wanted):
                began = time.perf_counter()
                outcome = await work()
                rows += [
                    Row(name, {"work": kind}, number, *figure, outcome.cpu_seconds, outcome.verified)
                    for figure in outcome.figures
                ]
                told = ", ".join(f"{metric} {value:,.1f} {unit}" for metric, value, unit in outcome.figures)
                print(f"round {number}, {name}, {time.perf_counter() - began:.0f} s: {told}", flush=True)
    found = goals(rows)
    done = results(rows, [goal.line for goal in found], quick=quick, load_before=busy)
    if not (only or kinds or spec):
        done.write(NAME)
        report.write()
    print("\n".join(["", *done.goals]))
    return 0 if all(goal.met for goal in found) else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.outbox", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: under eight minutes")
    parser.add_argument("--only", nargs="+", default=[], help="some contenders; nothing is written")
    parser.add_argument("--work", nargs="+", default=[], help="some kinds of work; nothing is written")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--events", type=int)
    parser.add_argument(
        "--spec", type=json.loads, default={}, help="fields of our OutboxRelay as JSON; nothing is written"
    )
    given = parser.parse_args()
    lengths = QUICK if given.quick else FULL
    lengths = Lengths(
        given.rounds or lengths.rounds,
        given.events or lengths.events,
        lengths.live_seconds,
        lengths.open_seconds,
        lengths.writer_seconds,
    )
    return asyncio.run(run(lengths, given.only, given.work, given.spec, quick=given.quick))


if __name__ == "__main__":
    sys.exit(main())
