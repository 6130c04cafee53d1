"""Wait for a fact, never for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T]], until: Callable[[T], bool] = bool, *, seconds: float = 20, every: float = 0.02
) -> T:
    """Call `look` until its answer satisfies `until`; fails with the last answer after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await look()
        if until(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still {answer!r}")
        await asyncio.sleep(every)
