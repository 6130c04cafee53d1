"""Sagas that change one order one after the other, and an engine for them as a process of its own, to be killed.

Run as `python -m tests.integration.saga.lock_pass URL`; it works until it is ended.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import asyncpg

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.worker.saga.calling.calls import Caller
from marty_msf.worker.saga.calling.python_caller import PythonCaller, StepCall, StepRejected
from tests.integration.saga.sagas import engine, pool_of, spec

STEPS: tuple[dict[str, Any], ...] = (
    {"name": "reserve", "compensation": "release"},
    {"name": "charge", "compensation": "refund"},
    {"name": "confirm"},
)


def saga(lock: Mapping[str, Any] | None) -> SagaSpec:
    return spec(*STEPS, workers=50, **({} if lock is None else {"semanticLock": lock}))


LEDGER = "CREATE TABLE public.ledger (id bigserial, saga text, orders text, action text)"
ENTER = "INSERT INTO public.ledger (saga, orders, action) VALUES ($1, $2, $3)"


def caller(pool: asyncpg.Pool) -> Caller:
    """Handlers that write what they do into the test's database; orders that say so are declined."""

    def handler(action: str) -> Any:
        async def act(call: StepCall) -> None:
            await pool.execute(ENTER, call.saga_id, call.context["orders"], action)
            await asyncio.sleep(0.002)
            if action == "charge" and call.context.get("decline"):
                raise StepRejected("declined")

        return act

    return PythonCaller(
        {f"shop/{action}": handler(action) for action in ("reserve", "release", "charge", "refund", "confirm")}
    )


async def interleaved(conn: asyncpg.Connection) -> int:
    """How often a saga came back to an order after another one had touched it."""
    turns: dict[str, list[str]] = {}
    for of, orders in await conn.fetch("SELECT saga, orders FROM public.ledger ORDER BY id"):
        for order in orders.split():
            seen = turns.setdefault(order, [])
            if not seen or seen[-1] != of:
                seen.append(of)
    return sum(len(seen) - len(set(seen)) for seen in turns.values())


async def _work(url: str, lock: Mapping[str, Any]) -> None:
    async with pool_of(url) as pool, engine(pool, caller(pool), saga(lock)):
        await asyncio.Event().wait()


ONE_ORDER: Mapping[str, Any] = {"key": "'order:' + context.orders"}


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], ONE_ORDER))
