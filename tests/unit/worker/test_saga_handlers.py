"""Functions as steps: how they are found, what they get, what their results and errors mean."""

import asyncio
import functools
import threading
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.events import Failed, Rejected, Succeeded, Unusable
from marty_msf.core.saga.journal import encode
from marty_msf.core.saga.outcome import Outcome
from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.board import Board
from marty_msf.worker.saga.calling.handlers import Handlers, StepContext, outcome_of, saga_compensation, saga_step
from marty_msf.worker.saga.calling.python_caller import StepRejected
from marty_msf.worker.saga.calling.threads import THREADS
from tests.support.waiting import eventually

BODY = {"saga_id": "s1", "step": "charge", "context": {"order": 7}, "data": {"amount": 5}}


def request(undo: bool = False, timeout_seconds: float = 5) -> Any:
    """What handlers read of a call."""
    body = {**BODY, "result": {"payment": "p1"}} if undo else BODY
    key = f"s1:charge:{'undo' if undo else 'do'}:1"
    return SimpleNamespace(
        undo=undo, body=orjson.dumps(body), idempotency_key=key, timeout_seconds=timeout_seconds, traceparent=None
    )


async def call(handler: Any, **of: Any) -> Outcome:
    handlers = Handlers()
    try:
        handlers.register_step_handler("charge", handler)
        return await handlers.call("charge", request(**of))
    finally:
        handlers.close()


async def test_a_handler_gets_the_context_and_what_the_call_is_about() -> None:
    seen: list[StepContext] = []

    async def charge(context: StepContext) -> dict[str, str]:
        seen.append(context)
        return {"payment": "p1"}

    assert await call(charge) == Succeeded({"payment": "p1"})
    (context,) = seen
    assert context == {"order": 7}
    assert (context.saga_id, context.step, context.data, context.result) == ("s1", "charge", {"amount": 5}, None)
    assert context.idempotency_key == "s1:charge:do:1"


async def test_an_undo_gets_the_steps_result() -> None:
    handlers = Handlers()
    seen: list[Any] = []
    handlers.register_compensation_handler("charge", lambda context: seen.append(context.result))

    assert await handlers.call("charge", request(undo=True)) == Succeeded({})
    assert seen == [{"payment": "p1"}]
    handlers.close()


async def test_a_function_that_is_no_coroutine_runs_in_a_thread() -> None:
    assert await call(lambda _: {"thread": threading.current_thread() is threading.main_thread()}) == Succeeded(
        {"thread": False}
    )


async def test_a_plain_function_may_hand_on_a_coroutine() -> None:
    async def inner(context: StepContext, more: int) -> dict[str, int]:
        return {"more": more}

    assert await call(functools.partial(inner, more=2)) == Succeeded({"more": 2})
    assert await call(lambda context: inner(context, 3)) == Succeeded({"more": 3})


async def test_a_rejection_is_a_business_refusal_and_any_other_error_is_of_unknown_outcome() -> None:
    async def refuse(_: StepContext) -> None:
        raise StepRejected("declined")

    async def fail(_: StepContext) -> None:
        raise KeyError("card")

    refused, failed = await call(refuse), await call(fail)

    assert isinstance(refused, Rejected)
    assert refused.error == "declined"
    assert isinstance(failed, Failed)
    assert (failed.error, failed.unknown) == ("the step handler of 'charge' raised KeyError: 'card'", True)


class Panic(BaseException):
    """As extensions in other languages raise it."""


class Interrupted(KeyboardInterrupt):
    """As command-line libraries raise it."""


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FileNotFoundError("invoice-\udcff.pdf"), "FileNotFoundError: invoice-?.pdf"),
        (Panic("index out of bounds"), "Panic: index out of bounds"),
        (KeyboardInterrupt("by the handler"), "KeyboardInterrupt: by the handler"),
        (Interrupted("by a library"), "Interrupted: by a library"),
        (Mute(), "Mute: (its text cannot be made)"),
        (StopIteration("of a coroutine"), "RuntimeError: coroutine raised StopIteration"),
    ],
)
async def test_whatever_a_handler_raises_is_an_outcome_that_can_be_journaled(
    error: BaseException, sentence: str
) -> None:
    async def fail(_: StepContext) -> None:
        raise error

    outcome = await call(fail)

    assert isinstance(outcome, Failed)
    assert outcome.unknown
    assert sentence in outcome.error
    assert encode(outcome, 0, b"")


async def test_a_refusal_may_have_a_text_that_no_utf8_can_hold() -> None:
    async def refuse(_: StepContext) -> None:
        raise StepRejected("no stock of \ud800")

    outcome = await call(refuse)

    assert isinstance(outcome, Rejected)
    assert outcome.error == "no stock of ?"


async def test_only_the_beginning_of_a_long_error_is_kept() -> None:
    async def fail(_: StepContext) -> None:
        raise ValueError("x" * 5_000_000)

    outcome = await call(fail)

    assert isinstance(outcome, Failed)
    assert len(outcome.error) < 2000


async def test_a_plain_function_that_raises_stop_iteration_is_not_waited_for() -> None:
    outcome = await call(lambda _: next(iter(())), timeout_seconds=5)

    assert isinstance(outcome, Failed)
    assert "raised RuntimeError: StopIteration" in outcome.error


async def test_the_end_of_the_process_is_not_held_up() -> None:
    async def leave(_: StepContext) -> None:
        raise SystemExit(3)

    handlers = Handlers()
    handlers.register_step_handler("charge", leave)
    work = handlers.call("charge", request())

    with pytest.raises(SystemExit):
        work.send(None)


async def test_a_plain_functions_keyboard_interrupt_is_an_error_like_others() -> None:
    def interrupt(_: StepContext) -> None:
        raise KeyboardInterrupt("in a thread")

    for interrupts in (False, True):
        handlers = Handlers(interrupts=interrupts)
        handlers.register_step_handler("charge", interrupt)
        outcome = await handlers.call("charge", request())
        handlers.close()

        assert isinstance(outcome, Failed)
        assert outcome.unknown
        assert "raised KeyboardInterrupt: in a thread" in outcome.error


async def test_what_may_be_ctrl_c_goes_on_with_a_word_about_where(caplog: pytest.LogCaptureFixture) -> None:
    async def interrupt(_: StepContext) -> None:
        raise KeyboardInterrupt

    handlers = Handlers(interrupts=True)
    handlers.register_step_handler("charge", interrupt)

    with pytest.raises(KeyboardInterrupt):
        handlers.call("charge", request()).send(None)
    assert "the step handler of 'charge' raised KeyboardInterrupt in saga s1" in caplog.text


async def test_a_handler_that_takes_too_long_is_of_unknown_outcome() -> None:
    async def wait(_: StepContext) -> None:
        await asyncio.Event().wait()

    outcome = await call(wait, timeout_seconds=0.01)

    assert isinstance(outcome, Failed)
    assert outcome.unknown
    assert "no answer in 0.01 s" in outcome.error


async def test_a_function_that_never_got_a_thread_is_known_not_to_have_happened() -> None:
    over, board = threading.Event(), Board()
    called: list[StepContext] = []
    handlers = Handlers()

    def hang(_: StepContext) -> None:
        over.wait()

    handlers.register_step_handler("hang", hang)
    handlers.register_step_handler("charge", called.append)
    try:
        hung = await asyncio.gather(
            *(handlers.call("hang", request(timeout_seconds=0.2)) for _ in range(THREADS)),
        )
        outcome = await handlers.call("charge", request(timeout_seconds=0.1))
        handlers.look(board)

        assert [found.unknown for found in hung if isinstance(found, Failed)] == [True] * THREADS
        assert isinstance(outcome, Failed)
        assert not outcome.unknown
        assert outcome.error == (
            "the step handler of 'charge' was not called: no thread was free for it in 0.1 s, all 32 threads are busy with"
            " functions that do not end in their time (the step handler of 'hang': 32)"
        )
        [problem] = board.current()
        assert (problem.reason, problem.blocking) == (ProblemReason.HANDLERS_HANG, False)
        assert "the step handler of 'hang': 32" in problem.message

        over.set()
        assert await handlers.call("charge", request()) == Succeeded({})
        assert len(called) == 1, "what was given up is not called later"

        async def clear() -> bool:
            handlers.look(board)
            return not board.current()

        await eventually(clear)
    finally:
        over.set()
        handlers.close()


async def test_a_function_that_hangs_does_not_keep_the_process_from_its_exit() -> None:
    holding: list[bool] = []
    assert await call(lambda _: holding.append(not threading.current_thread().daemon)) == Succeeded({})

    assert holding == [False]


async def test_what_a_handler_awaits_may_be_cancelled_without_ending_the_worker() -> None:
    async def cancelled(_: StepContext) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    outcome = await call(cancelled)

    assert isinstance(outcome, Failed)
    assert "was cancelled from inside" in outcome.error


async def test_a_cancelled_call_is_cancelled() -> None:
    async def wait(_: StepContext) -> None:
        await asyncio.Event().wait()

    running = asyncio.ensure_future(call(wait))
    await asyncio.sleep(0)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(
    "result",
    [[1], "text", 0, True, {"a": object()}, {1: 2}, {"a": 2**70}, {"context": 1}, {"a": [nan]}, {"a": {"b": inf}}],
)
def test_a_result_that_is_no_json_object_cannot_be_kept(result: object) -> None:
    outcome = outcome_of("charge", result)

    assert isinstance(outcome, Unusable)
    assert "charge" in outcome.error


def test_a_result_may_be_nothing() -> None:
    assert outcome_of("charge", None) == outcome_of("charge", {}) == Succeeded({})


def test_a_result_over_its_size_cannot_be_kept() -> None:
    assert isinstance(outcome_of("charge", {"a": "x" * 2_000_000}), Unusable)


def test_marked_functions_are_collected_from_modules_and_objects() -> None:
    class Payments:
        @saga_step
        async def charge(self, context: StepContext) -> None: ...

        @saga_compensation("charge")
        async def give_back(self, context: StepContext) -> None: ...

        @property
        def broken(self) -> None:
            raise AssertionError("a property is not run")

    handlers, payments = Handlers(), Payments()

    assert handlers.collect(payments) == 2
    assert handlers.has("charge", undo=False)
    assert handlers.has("charge", undo=True)
    assert handlers.collect(payments) == 2, "the same functions again are no conflict"


def test_a_step_has_one_function() -> None:
    handlers = Handlers()
    handlers.register_step_handler("charge", lambda _: None)

    with pytest.raises(InvalidDefinition, match="registered already"):
        handlers.register_step_handler("charge", lambda _: None)
    with pytest.raises(InvalidDefinition, match="cannot be called"):
        handlers.register_step_handler("refund", "refund")  # type: ignore[arg-type]


async def test_whoever_waits_for_a_handler_is_told() -> None:
    handlers = Handlers()
    waiting = asyncio.ensure_future(handlers.registered("charge", undo=False))
    await asyncio.sleep(0)
    handlers.register_step_handler("other", lambda _: None)
    await asyncio.sleep(0)
    assert not waiting.done()

    handlers.register_step_handler("charge", lambda _: None)

    await waiting
