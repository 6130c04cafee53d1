"""Groups of tasks: their errors, and their cancellation."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, TypeVar

from marty_msf.core.errors import MartyError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class TaskGroup(asyncio.TaskGroup):
    """asyncio's, but its errors leave the task around it as they found it, as they do from Python 3.13 on.

    Before, the cancellation by which a failed child ends the wait for the others stays counted: to the next
    `asyncio.timeout` of that task it is one from outside, so that in Python 3.11.2 the time-out cancels the task. And a
    cancellation from outside that meets an error is forgotten; here it goes on, in the error's place.

    A task that nobody cancelled, and out of which comes the cancellation of something it waited for, has failed: asyncio takes it
    for one that was meant to end, and nobody would miss it.
    """

    def create_task(  # type: ignore[override]  # of coroutines only
        self, coro: Coroutine[Any, Any, Result], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Result]:
        """See asyncio.TaskGroup.create_task."""
        task = super().create_task(_unless_cancelled_by_itself(coro), name=name, context=context)
        # One that is cancelled before it began is not awaited, which Python would warn of.
        task.add_done_callback(lambda _: coro.close())
        return task

    if sys.version_info < (3, 13):
        _parent_task: asyncio.Task[Any]
        _parent_cancel_requested: bool

        async def __aenter__(self) -> "TaskGroup":
            await super().__aenter__()
            self._cancelled_before = self._parent_task.cancelling()
            return self

        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None:
            settled = self._parent_cancel_requested
            try:
                await super().__aexit__(kind, error, traceback)
            except BaseExceptionGroup as group:
                task = self._parent_task
                if self._parent_cancel_requested and not settled:
                    task.uncancel()
                if task.cancelling() <= self._cancelled_before:
                    raise
                if not isinstance(first_error(group), MartyError):
                    logger.exception("unexpected error of a task that is cancelled")
                raise asyncio.CancelledError from group


async def _unless_cancelled_by_itself(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError(
            f"{getattr(work, '__qualname__', work)} ended, because something it waited for was cancelled"
        ) from error


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group that names its cause best: what nobody expected before what we know, then the first.

    A bug must not hide behind a lost connection that it caused.
    """
    leaves = list(_leaves(group))
    unexpected = [error for error in leaves if not isinstance(error, MartyError)]
    return (unexpected or leaves)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work that no cancellation may tear in two: a write, and the memory of it.

    A caller that is cancelled, however often, is told so after the work has ended; what the work raised then is dropped.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()
    raise cancelled
