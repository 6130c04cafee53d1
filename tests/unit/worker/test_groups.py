"""A task whose group failed goes on as if nothing had cancelled it; one that was cancelled does not go on."""

import asyncio

import pytest

from marty_msf.core.errors import LeaseLost
from marty_msf.worker.groups import TaskGroup


async def fail(after: asyncio.Event) -> None:
    await after.wait()
    raise LeaseLost("the lane is another's")


async def linger(until: asyncio.Event) -> None:
    """Take a while to be cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        await until.wait()


def cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_the_error_of_a_group_leaves_no_cancellation_behind_whether_its_body_runs_or_waits() -> None:
    at_once = asyncio.Event()
    at_once.set()

    async def group(body: asyncio.Event) -> None:
        async with TaskGroup() as tasks:
            tasks.create_task(fail(at_once))
            tasks.create_task(asyncio.Event().wait())
            await body.wait()

    for body in (at_once, asyncio.Event()):
        with pytest.raises(ExceptionGroup):
            await group(body)
        assert cancellations() == 0


async def test_a_cancellation_from_outside_is_not_lost_behind_an_error() -> None:
    failing, lingering, swallowed = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(fail(failing))
                tasks.create_task(linger(lingering))
        except ExceptionGroup as group:
            swallowed.append(group)
        await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    failing.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    lingering.set()
    done, _ = await asyncio.wait({task}, timeout=5)

    assert done, "the task goes on for ever"
    assert task.cancelled()
    assert not swallowed


async def test_a_task_out_of_which_comes_a_cancellation_that_nobody_asked_for_has_failed() -> None:
    """asyncio's own group takes it for one that was meant to end: the others go on without it."""

    async def waits_for_what_is_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def group() -> None:
        async with TaskGroup() as tasks:
            tasks.create_task(waits_for_what_is_cancelled())
            tasks.create_task(asyncio.Event().wait())

    with pytest.raises(ExceptionGroup) as raised:
        await group()
    (error,) = raised.value.exceptions
    assert "waits_for_what_is_cancelled ended, because something it waited for was cancelled" in str(error)


async def test_a_task_of_a_group_may_be_cancelled_by_who_has_it() -> None:
    async with TaskGroup() as tasks:
        tasks.create_task(asyncio.Event().wait()).cancel()
        begun = tasks.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        begun.cancel()
