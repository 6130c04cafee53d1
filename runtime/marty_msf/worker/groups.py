"""What asyncio.TaskGroup does to its tasks: their errors, and their cancellation."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from marty_msf.core.errors import MartyError

Result = TypeVar("Result")


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

    A caller that is cancelled is told so after the work has ended; what the work raised then is dropped.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
