"""One start or stop at a time, each done as a whole, whoever is cancelled meanwhile."""

import asyncio

import pytest

from marty_msf.core.errors import NotRunning
from marty_msf.patterns.life import Life


async def begin(life: Life[str], ended: list[str], may_go_on: asyncio.Event | None = None) -> None:
    async with life.starting() as stack:
        if may_go_on is not None:
            await may_go_on.wait()
        stack.callback(ended.append, "ended")
        life.running = "it"


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_runs_is_ended_once() -> None:
    life, ended = Life[str]("the test"), list[str]()
    with pytest.raises(NotRunning, match=r"the test is not started: await start\(\) first"):
        life.at_work()
    await begin(life, ended)
    assert life.at_work() == "it"
    with pytest.raises(NotRunning, match=r"the test runs already: call stop\(\) before the next start\(\)"):
        await begin(life, ended)
    await asyncio.gather(life.stop(), life.stop())
    assert (life.running, ended) == (None, ["ended"])
    await begin(life, ended)
    await life.stop()
    assert ended == ["ended"] * 2


async def test_a_start_that_fails_leaves_nothing() -> None:
    life, ended = Life[str]("the test"), list[str]()

    async def fail() -> None:
        async with life.starting() as stack:
            stack.callback(ended.append, "ended")
            raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        await fail()
    assert (life.running, ended) == (None, ["ended"])
    await begin(life, ended)


async def test_a_stop_that_is_cancelled_while_a_start_is_under_way_stops_it_all_the_same() -> None:
    """Naive: the stop is told that it was cancelled, and what it should have stopped begins to run."""
    life, ended, may_go_on = Life[str]("the test"), list[str](), asyncio.Event()
    starting = asyncio.create_task(begin(life, ended, may_go_on))
    await turns()
    stopping = asyncio.create_task(life.stop())
    await turns()
    stopping.cancel()
    await turns()
    assert not stopping.done()
    may_go_on.set()
    await starting
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (life.running, ended) == (None, ["ended"])


async def test_a_stop_that_is_cancelled_twice_lets_nobody_start_before_it_is_done() -> None:
    life, ended, may_end = Life[str]("the test"), list[str](), asyncio.Event()
    async with life.starting() as stack:
        stack.callback(ended.append, "ended")
        stack.push_async_callback(may_end.wait)
        life.running = "it"
    stopping = asyncio.create_task(life.stop())
    for _ in range(2):
        await turns()
        stopping.cancel()
    again = asyncio.create_task(begin(life, ended))
    await turns()
    assert not stopping.done()
    assert not again.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await again
    assert (life.running, ended) == ("it", ["ended"])
