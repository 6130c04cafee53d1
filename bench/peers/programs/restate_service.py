"""Restate: a handler with three durable steps, served by hypercorn (h2c)."""

import restate
from load import COMPENSATED, COMPLETED, REFUSED_EACH

saga = restate.Service("saga")


async def nothing() -> int:
    return 1


async def refuse() -> int:
    raise restate.TerminalError("no carrier")


@saga.handler()
async def run(context: restate.Context, number: int) -> str:
    await context.run_typed("reserve", nothing)
    await context.run_typed("charge", nothing)
    try:
        await context.run_typed("ship", refuse if number % REFUSED_EACH == 0 else nothing)
    except restate.TerminalError:
        await context.run_typed("refund", nothing)
        await context.run_typed("release", nothing)
        return COMPENSATED
    return COMPLETED


app = restate.app([saga])
