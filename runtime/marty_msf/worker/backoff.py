"""Waits between attempts, doubling up to a bound, and waits that a stop ends."""

import asyncio
from contextlib import suppress


class Backoff:
    """first, 2 x first, 4 x first, … at most `longest`, in seconds; `reset` after a success."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """How long to wait now."""
        now = min(self._next, self._longest)
        self._next = now * 2
        return now

    def reset(self) -> None:
        """The next wait is the first again."""
        self._next = self._first


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not beyond `stop`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
