"""One pass of the saga engine over HTTP as a process of its own: two sagas, one after the other, from start to end.

Run as `python -m tests.integration.saga.crash_pass URL RESOURCE PORT JOURNAL [GAP]`. With a journal its effects are
recorded, with a gap it kills itself there; with JOURNAL `-` nothing is wrapped.
"""

import asyncio
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.outcome import Outcome
from marty_msf.store import saga_instance
from marty_msf.worker.board import Board
from marty_msf.worker.saga.calling.calls import Caller, Request
from marty_msf.worker.saga.calling.http_caller import HttpCaller
from marty_msf.worker.saga.calling.http_client import session
from marty_msf.worker.saga.calling.reachability import Reachability
from marty_msf.worker.saga.calling.secret_files import SecretFiles
from marty_msf.worker.saga.definitions import Definitions
from marty_msf.worker.saga.engine import Engine
from tests.integration.saga.sagas import pool_of, spec
from tests.support.effects import Effects, RecordingPool

#: Reading changes nothing, so there is nothing between a read and what is before it; claims of lanes are writes.
_READS: Final = re.compile(r"sql \w+ (SELECT (?!lane, epoch)|SET |RESET )")


class Writes(Effects):
    """Counts writes and calls only: how many reads there are depends on how quick the machine is."""

    def before(self, name: str) -> None:
        if not _READS.match(name):
            super().before(name)


class RecordingCaller:
    """A call and its answer are two effects: in between the service has done its work and nobody here knows it."""

    def __init__(self, caller: Caller, effects: Effects) -> None:
        self._caller = caller
        self._effects = effects

    async def call(self, request: Request) -> Outcome:
        self._effects.before(f"call {request.action}")
        outcome = await self._caller.call(request)
        self._effects.before(f"answer {request.action}")
        return outcome


def saga(port: int) -> SagaSpec:
    service = f"127.0.0.1:{port}"
    return spec(
        {"name": "reserve", "compensation": "release", "service": service},
        {"name": "charge", "compensation": "refund", "pivot": True, "service": service},
        {"name": "confirm", "service": service},
    )


#: Contexts of the two orders.
ORDERS: Final[Sequence[Mapping[str, Any]]] = ({"decline": False}, {"decline": True})


async def run_pass(
    url: str,
    resource: str,
    plan: SagaSpec,
    effects: Effects | None,
    orders: Sequence[Mapping[str, Any]] = ORDERS,
) -> None:
    """Start the orders one after the other, each when the one before is settled."""
    async with pool_of(url) as plain, session() as client:
        pool: Any = RecordingPool(plain, effects) if effects else plain
        caller: Caller = HttpCaller(client, Reachability(Board(), time.time), SecretFiles(Path("/nowhere")))
        ended = asyncio.Semaphore(0)
        engine = Engine(
            pool,
            resource=resource,
            holder=f"pass/{secrets.token_hex(4)}",
            definitions=Definitions(pool, resource, plan),
            caller=RecordingCaller(caller, effects) if effects else caller,
            workers=10,
            ended=lambda _: ended.release(),
            broken=lambda instance, error: sys.exit(f"{instance}: {error}"),
            worked={},
        )
        stop = asyncio.Event()
        running = asyncio.create_task(engine.run(stop))
        await engine.ready.wait()
        for number, order in enumerate(orders):
            await engine.start(f"order-{number}", order)
            await settled(plain, resource)
        stop.set()
        await running
    if effects:
        effects.end()


async def settled(pool: Any, resource: str) -> None:
    """Until no instance is live."""
    async with pool.acquire() as conn:
        while True:
            numbers = await saga_instance.totals(conn, resource)
            ended = numbers.completed + numbers.compensated + numbers.failed + numbers.cancelled
            if numbers.started == ended + numbers.parked:
                return
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    _, database_url, of, service_port, journal, *gap = sys.argv
    recorder = Writes(Path(journal), int(gap[0]) if gap else None) if journal != "-" else None
    asyncio.run(run_pass(database_url, of, saga(int(service_port)), recorder))
