"""What of a user's object runs between its start and its stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Generic, TypeVar

from marty_msf.core.errors import NotRunning
from marty_msf.worker.groups import to_its_end

RunningT = TypeVar("RunningT")


class Life(Generic[RunningT]):
    """One start or stop at a time, and each is done as a whole."""

    def __init__(self, whose: str) -> None:
        """`whose` it is, for errors, such as `event bus 'orders'`."""
        self._whose = whose
        self._stack = AsyncExitStack()
        #: Held by a start or stop under way.
        self._changing = asyncio.Lock()
        #: None when it is not started.
        self.running: RunningT | None = None

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[AsyncExitStack]:
        """The block sets `running` at its end; what it enters into the stack is left by `stop`, or now if it fails.

        Raises NotRunning when it runs already. Waits for a start or stop that is under way.
        """
        async with self._changing:
            if self.running is not None:
                raise NotRunning(f"{self._whose} runs already: call stop() before the next start()")
            async with AsyncExitStack() as stack:
                yield stack
                self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Leave what was entered. Does nothing when it does not run.

        Waits for a start that is under way, and is done as a whole: who is cancelled meanwhile is told so afterwards.
        """
        await to_its_end(self._stop())

    def at_work(self) -> RunningT:
        """What runs. Raises NotRunning when nothing does."""
        if self.running is None:
            raise NotRunning(f"{self._whose} is not started: await start() first")
        return self.running

    async def _stop(self) -> None:
        async with self._changing:
            if self.running is not None:
                self.running = None
                await self._stack.aclose()
