"""How many sagas of three in-process steps one worker runs: the role class of the pod, its engine and its tables.

200 sagas are always in work: whenever one did its last call, the next one starts. 5 % are refused at the third step and
compensate. The first 5,000 are warm-up. Afterwards every count is recomputed from the instance rows and journals.
"""

import argparse
import asyncio
import cProfile
import pstats
import secrets
import sys
import time
from collections.abc import Mapping
from typing import Any

import asyncpg
import uvloop

from bench.harness import WARM_UP_ITEMS, Cost, Result, fresh_database, measure, report
from marty_msf.core.worker_config import SagaConfig
from marty_msf.core.worker_status import SagaTotals
from marty_msf.store.database import open_pool
from marty_msf.worker import collector
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.calling.python_caller import PythonCaller, StepCall, StepRejected
from marty_msf.worker.saga.role import SagaRole

FLOOR = 1_500
REFUSED_EACH = 20

CONFIG = {
    "role": "saga", "namespace": "bench", "name": "saga",
    "spec": {
        "database": {"urlSecretRef": {"name": "bench"}},
        "workers": 200,
        "steps": [
            {"name": "reserve", "service": "shop", "action": "reserve", "compensation": "release"},
            {"name": "charge", "service": "shop", "action": "charge", "compensation": "refund"},
            {"name": "ship", "service": "shop", "action": "ship"},
        ],
    },
}  # fmt: skip


class Load:
    """The services, and the customers that keep `concurrency` sagas in work."""

    def __init__(self, role: SagaRole, concurrency: int) -> None:
        self._role = role
        self._places = asyncio.Semaphore(concurrency)
        self.started = 0

    @staticmethod
    async def forward(call: StepCall) -> Mapping[str, Any] | None:
        return {call.step: call.context["order"]}

    async def ship(self, call: StepCall) -> Mapping[str, Any] | None:
        if call.context["order"] % REFUSED_EACH == 0:
            raise StepRejected("no carrier")
        self._places.release()
        return None

    async def refund(self, call: StepCall) -> Mapping[str, Any] | None:
        assert call.result == {"charge": call.context["order"]}
        return None

    async def release(self, _: StepCall) -> Mapping[str, Any] | None:
        self._places.release()
        return None

    async def run(self, engine_start: Any, until: float, count: int) -> int:
        """Start sagas until a time (of time.perf_counter) or a count is reached; returns how many."""
        began = self.started
        async with asyncio.TaskGroup() as tasks:
            while time.perf_counter() < until and self.started - began < count:
                await self._places.acquire()
                number = self.started
                self.started += 1
                tasks.create_task(engine_start(f"order-{number}", {"order": number}))
        return self.started - began


async def quiet(role: SagaRole) -> SagaTotals:
    """Wait until no instance is active."""
    while (totals := await role.totals()).active:
        await asyncio.sleep(0.02)
    return totals


async def run(seconds: float, concurrency: int, profile: bool) -> int:
    async with fresh_database() as url:
        board = Board()
        pool = await open_pool(url, 8, "marty-saga bench")
        context = Context(pool, f"bench/{secrets.token_hex(4)}", "bench/saga", board, new_registry(board))
        handlers: dict[str, Any] = {}
        role = SagaRole(context, SagaConfig.model_validate(CONFIG), PythonCaller(handlers))
        load = Load(role, concurrency)
        handlers |= {
            "shop/reserve": load.forward, "shop/charge": load.forward, "shop/ship": load.ship,
            "shop/refund": load.refund, "shop/release": load.release,
        }  # fmt: skip
        stop = asyncio.Event()
        running = asyncio.create_task(role.run(stop))
        while role.engine is None or not role.engine.ready.is_set():
            await asyncio.sleep(0.01)
        await load.run(role.engine.start, time.perf_counter() + 600, WARM_UP_ITEMS)
        await quiet(role)
        profiler = cProfile.Profile() if profile else None
        async with measure(url) as cost:
            if profiler:
                profiler.enable()
            cost.items = await load.run(role.engine.start, time.perf_counter() + seconds, sys.maxsize)
            totals = await quiet(role)
            if profiler:
                profiler.disable()
        if profiler:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
        stop.set()
        await running
        await pool.close()
        found, failures = await verify(url, load.started, totals)
    return finish(cost, concurrency, found, failures)


async def verify(url: str, started: int, totals: SagaTotals) -> tuple[dict[str, str], list[str]]:
    """Recompute from the tables what must have happened."""
    conn = await asyncpg.connect(url)
    try:
        states = dict(await conn.fetch("SELECT state, count(*) FROM marty.saga_instance GROUP BY state"))
        wrong = await conn.fetchval(
            "SELECT count(*) FROM marty.saga_instance WHERE state <> CASE"
            " WHEN split_part(business_key, '-', 2)::bigint % $1 = 0 THEN 'Compensated' ELSE 'Completed' END",
            REFUSED_EACH,
        )
        # A start and three answers; of a refused one two more, of its undos.
        entries = await conn.fetchval(
            "SELECT count(*) FROM (SELECT i.state, count(*) AS entries, max(j.seq) AS last FROM marty.saga_instance i"
            " JOIN marty.saga_journal j USING (id) GROUP BY i.id) AS t"
            " WHERE entries <> last OR entries <> CASE state WHEN 'Completed' THEN 4 ELSE 6 END"
        )
    finally:
        await conn.close()
    compensated = (started + REFUSED_EACH - 1) // REFUSED_EACH
    expected = {"Completed": started - compensated, "Compensated": compensated}
    found = {
        "instances by state": f"{states} of {expected}",
        "instances in the wrong state": str(wrong),
        "instances whose journal is not exactly its events": str(entries),
        "status counters": f"{totals.completed} + {totals.compensated} + {totals.parked}",
    }
    failures = [
        name
        for name, bad in (
            ("instances are missing or in other states", states != expected),
            ("an instance is in the wrong state", wrong),
            ("a journal has too many or too few entries", entries),
            ("the counters differ", (totals.completed, totals.compensated) != tuple(expected.values())),
        )
        if bad
    ]
    return found, failures


def finish(cost: Cost, concurrency: int, found: dict[str, str], failures: list[str]) -> int:
    return report(
        Result(
            name="saga-engine",
            unit="sagas/s",
            floor=FLOOR,
            cost=cost,
            settings={
                "steps": 3,
                "concurrency": concurrency,
                "refused": f"1 of {REFUSED_EACH}",
                "warm_up": WARM_UP_ITEMS,
            },
            verified=found,
            failures=tuple(failures),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=32)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--profile", action="store_true", help="print where the worker's time goes; slower")
    given = parser.parse_args()
    collector.set_pace()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(given.seconds, given.concurrency, given.profile))


if __name__ == "__main__":
    sys.exit(main())
