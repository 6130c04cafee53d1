"""A bound for the time of something awaited that mostly does not wait at all."""

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def bounded(work: Awaitable[ResultT], seconds: float) -> ResultT:
    """Await for so long; what never waits costs no timer. Raises TimeoutError without a text."""
    waiting = work.__await__()
    result: ResultT
    try:
        first = next(waiting)
    except StopIteration as done:
        result = done.value
        return result
    async with asyncio.timeout(seconds):
        result = await _Begun(waiting, first)
        return result


class _Begun:
    """The rest of an awaitable that was begun and gave `first` to wait for."""

    def __init__(self, rest: Generator[Any, Any, Any], first: Any) -> None:
        self._rest = rest
        self._first = first

    def __await__(self) -> Generator[Any, Any, Any]:
        pending = self._first
        while True:
            try:
                try:
                    value = yield pending
                except GeneratorExit:
                    self._rest.close()
                    raise
                except BaseException as error:
                    pending = self._rest.throw(error)
                else:
                    pending = self._rest.send(value)
            except StopIteration as done:
                return done.value
