"""How the calls in flight end."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from marty_msf.core.saga.events import Succeeded
from marty_msf.core.saga.outcome import Outcome
from marty_msf.worker.saga.calling import calls
from marty_msf.worker.saga.calling.calls import CallPool, Request

CALL: Any = SimpleNamespace(step=0, undo=False, number=1, timeout_ms=1000, not_after_ms=None)


def instance() -> Any:
    step = SimpleNamespace(name="charge", service="bank", breaker=None, group=None, call=None)
    definition = SimpleNamespace(steps=[step], url_path=lambda *_, **__: "charge")
    return MagicMock(
        definition=definition,
        text="saga-1",
        gone=False,
        bodies={0: b"{}"},
        instance=SimpleNamespace(context={}),
        traceparent=None,
    )


def gate(*, asks_all: bool = False) -> Any:
    return MagicMock(asks_all=asks_all, changed=asyncio.Event())


class Stubborn:
    """A caller whose calls swallow what cancels them, until `over`."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    async def call(self, _: Request) -> Outcome:
        self.task = asyncio.current_task()
        self.begun.set()
        while not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                continue
        return Succeeded({})


async def test_a_call_that_swallows_its_cancellation_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calls, "LET_GO_SECONDS", 0.05)
    caller, outcomes = Stubborn(), MagicMock()
    pool = CallPool(caller, 2, outcomes, gate(), MagicMock())
    running = asyncio.ensure_future(pool.run())
    pool.put(instance(), CALL)
    await asyncio.wait_for(caller.begun.wait(), 10)

    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=10)

    assert done, "the pool waits for its caller"
    assert running.cancelled()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert "step 'charge' of saga-1" in told[0]

    # Its worker ends with it, takes no further call, and says nothing of an outcome that came too late.
    pool.put(instance(), CALL)
    caller.over.set()
    assert caller.task is not None
    done, _ = await asyncio.wait({caller.task}, timeout=10)
    assert done, "the worker goes on"
    outcomes.assert_not_called()


async def test_a_worker_whose_cancellation_was_swallowed_ends_with_its_call() -> None:
    caller = Stubborn()
    pool = CallPool(caller, 1, MagicMock(), gate(), MagicMock())
    running = asyncio.ensure_future(pool.run())
    pool.put(instance(), CALL)
    await asyncio.wait_for(caller.begun.wait(), 10)

    running.cancel()
    await asyncio.sleep(0)
    caller.over.set()

    done, _ = await asyncio.wait({running}, timeout=calls.LET_GO_SECONDS / 2)
    assert done


async def test_an_error_of_one_worker_ends_the_pool() -> None:
    class Broken:
        async def call(self, _: Request) -> Outcome:
            raise AssertionError("not reached")

    broken = gate(asks_all=True)
    broken.admits.side_effect = RuntimeError("a fault of ours")
    pool = CallPool(Broken(), 2, MagicMock(), broken, MagicMock())
    pool.put(instance(), CALL)

    with pytest.raises(RuntimeError, match="a fault of ours"):
        await asyncio.wait_for(pool.run(), 10)
