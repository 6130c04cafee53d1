"""One pass of a verb as a process of its own: an instance parks, a person's retry is asked for once, and is answered.

Run as `python -m tests.integration.saga.verb_pass URL RESOURCE LEDGER JOURNAL [GAP]`. With a gap it kills itself there.
The ledger gets the idempotency key of every call.
"""

import asyncio
import secrets
import sys
from pathlib import Path
from typing import Any

from marty_msf.core.saga.events import Misconfigured
from marty_msf.core.saga.outcome import Outcome
from marty_msf.store import saga_verb
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.definitions import Definitions
from marty_msf.worker.saga.engine import Engine
from marty_msf.worker.saga.surface import asking
from tests.integration.saga.crash_pass import Writes
from tests.integration.saga.sagas import pool_of, spec
from tests.support.effects import Effects, RecordingPool
from tests.support.waiting import eventually

SAGA = spec({"name": "charge", "compensation": "refund"})
STATE = "SELECT state FROM marty.saga_instance WHERE id::text = $1"


class Closed:
    """A service that knows no step: every instance parks."""

    def __init__(self, ledger: Path, effects: Effects | None) -> None:
        self._ledger = ledger
        self._effects = effects

    async def call(self, request: Request) -> Outcome:
        if self._effects:
            self._effects.before("call")
        with self._ledger.open("a") as ledger:
            ledger.write(f"{request.idempotency_key}\n")
        if self._effects:
            self._effects.before("answer")
        return Misconfigured("HTTP 404")


async def run_pass(url: str, resource: str, ledger: Path, effects: Effects | None) -> None:
    async with pool_of(url) as plain:
        pool: Any = RecordingPool(plain, effects) if effects else plain
        engine = Engine(
            pool,
            resource=resource,
            holder=f"pass/{secrets.token_hex(4)}",
            definitions=Definitions(pool, resource, SAGA),
            caller=Closed(ledger, effects),
            workers=4,
            ended=lambda _: None,
            broken=lambda instance, error: sys.exit(f"{instance}: {error}"),
            worked={},
        )
        stop = asyncio.Event()
        running = asyncio.create_task(engine.run(stop))
        await engine.ready.wait()
        receipt = await engine.start("order-1", {})
        await eventually(lambda: plain.fetchval(STATE, receipt.saga_id), lambda state: state == "Parked", every=0.005)
        asked = await plain.fetchval("SELECT id FROM marty.saga_verb WHERE instance::text = $1", receipt.saga_id)
        if asked is None:
            ids = [await plain.fetchval("SELECT id FROM marty.saga_instance WHERE id::text = $1", receipt.saga_id)]
            async with plain.acquire() as conn:
                (asked,) = await asking.ask(conn, ids, asking.Request("retry", {}, "ann"))
        await eventually(lambda: _answered(plain, asked), every=0.005)
        await eventually(lambda: plain.fetchval(STATE, receipt.saga_id), lambda state: state == "Parked", every=0.005)
        stop.set()
        await running
    if effects:
        effects.end()


async def _answered(pool: Any, number: int) -> bool:
    (verb,) = await saga_verb.answers(pool, [number])
    return verb.done is not None


if __name__ == "__main__":
    _, database_url, of, calls, journal, *gap = sys.argv
    recorder = Writes(Path(journal), int(gap[0]) if gap else None) if journal != "-" else None
    asyncio.run(run_pass(database_url, of, Path(calls), recorder))
