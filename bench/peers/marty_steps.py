"""The steps of our side of the benchmark, as a user writes them."""

from collections.abc import Mapping
from typing import Any

from bench.peers.programs.load import REFUSED_EACH
from marty_msf.patterns.saga import StepContext, StepRejected, saga_compensation, saga_step


@saga_step("reserve")
async def reserve(context: StepContext) -> Mapping[str, Any]:
    return {"reserve": context["order"]}


@saga_compensation("reserve")
async def release(context: StepContext) -> None:
    assert context.result == {"reserve": context["order"]}


@saga_step("charge")
async def charge(context: StepContext) -> Mapping[str, Any]:
    return {"charge": context["order"]}


@saga_compensation("charge")
async def refund(context: StepContext) -> None:
    assert context.result == {"charge": context["order"]}


@saga_step("ship")
async def ship(context: StepContext) -> None:
    if context["order"] % REFUSED_EACH == 0:
        raise StepRejected("no carrier")
