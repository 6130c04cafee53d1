"""Steps as functions of this process: which function does or undoes a step, and what its result or error means.

There is no registry of the module's own: decorators only mark functions, `Handlers.collect` finds the marks.
"""

import asyncio
import contextvars
import inspect
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, overload

import orjson

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.saga_step import HANDLER
from marty_msf.core.saga.caching import Cache
from marty_msf.core.saga.calling import Breaker
from marty_msf.core.saga.events import Failed, Rejected, Succeeded, Unusable
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES, Outcome, succeeded
from marty_msf.core.trace import of_saga
from marty_msf.core.user_values import as_json, said
from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.board import Board
from marty_msf.worker.saga.bounded import bounded
from marty_msf.worker.saga.calling import marks
from marty_msf.worker.saga.calling.cache_mark import cache_of
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.calling.circuit_mark import breaker_of
from marty_msf.worker.saga.calling.marks import FunctionT
from marty_msf.worker.saga.calling.python_caller import StepRejected
from marty_msf.worker.saga.calling.threads import Threads

logger = logging.getLogger(__name__)

_MARK: Final = "__marty_saga_handler__"
#: Names of steps, and of the handlers that definitions name.
_NAME: Final = re.compile(HANDLER)


class StepContext(dict[str, Any]):
    """What a handler gets: the saga's context as it was when the step began, and what the call is about.

    A copy: changing it changes nothing. What the handler returns is merged into the saga's context.
    """

    __slots__ = ("data", "idempotency_key", "result", "saga_id", "step", "trace")

    def __init__(
        self,
        context: Mapping[str, Any],
        *,
        saga_id: str,
        step: str,
        idempotency_key: str,
        data: Mapping[str, Any],
        result: Mapping[str, Any] | None,
        trace: str | None = None,
    ) -> None:
        super().__init__(context)
        self.saga_id = saga_id
        self.step = step
        #: The same for every call of one operation: do or undo of this step in this saga.
        self.idempotency_key = idempotency_key
        #: The step's own data.
        self.data = data
        #: Of an undo: the step's result; None when it is unknown whether the step happened.
        self.result = result
        #: Of the start or the call's span; None when there is neither.
        self.trace = trace

    @property
    def traceparent(self) -> str:
        """Of the W3C trace that the call belongs to, to be handed on to services and events."""
        return self.trace or of_saga(self.saga_id)


#: Returns what merges into the context, or None. Raises StepRejected, or anything else to be called again.
StepHandler: TypeAlias = Callable[[StepContext], Awaitable[Mapping[str, Any] | None] | Mapping[str, Any] | None]


class _Mark(NamedTuple):
    step: str
    undo: bool


@dataclass(frozen=True, slots=True)
class _Handler:
    """What is registered; all that can be said before a call, because calls are many."""

    function: Callable[[StepContext], Any]
    #: What it gives is a coroutine, which needs no thread.
    awaits: bool
    #: For people.
    name: str


@overload
def saga_step(step: FunctionT) -> FunctionT: ...
@overload
def saga_step(step: str) -> Callable[[FunctionT], FunctionT]: ...
def saga_step(step: str | FunctionT) -> Callable[[FunctionT], FunctionT] | FunctionT:
    """Mark the function that does a step: `@saga_step("charge")`; plain `@saga_step` takes the function's name."""
    return _marking(step, undo=False)


@overload
def saga_compensation(step: FunctionT) -> FunctionT: ...
@overload
def saga_compensation(step: str) -> Callable[[FunctionT], FunctionT]: ...
def saga_compensation(step: str | FunctionT) -> Callable[[FunctionT], FunctionT] | FunctionT:
    """Mark the function that undoes a step: `@saga_compensation("charge")`."""
    return _marking(step, undo=True)


def _marking(step: str | FunctionT, *, undo: bool) -> Callable[[FunctionT], FunctionT] | FunctionT:
    decorator = "@saga_compensation" if undo else "@saga_step"
    name = step if isinstance(step, str) else getattr(step, "__name__", None)
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        remedy = f"write {decorator}(\"reserve\"): letters, digits and '_.-', a letter first"
        raise InvalidDefinition(decorator, f"{step if name is None else name!r} names no step", remedy)

    def mark(function: FunctionT) -> FunctionT:
        return marks.put(function, _MARK, _Mark(name, undo), decorator)

    return mark if isinstance(step, str) else mark(step)


class Handlers:
    """The functions of this process by step. Functions that are no coroutines run in threads."""

    def __init__(self, *, interrupts: bool = False) -> None:
        """`interrupts`: Ctrl-C raises KeyboardInterrupt in whatever this process does, as it is in programs of the user's.

        In a worker its signal is the loop's, so a KeyboardInterrupt is an error like any other.
        """
        self._interrupts = interrupts
        #: By _Mark, or by a plain pair, which is the same key and costs less.
        self._handlers: dict[tuple[str, bool], _Handler] = {}
        self._threads: Threads | None = None
        #: Replaced whenever something is registered.
        self._changed = asyncio.Event()

    def register_step_handler(self, step: str, handler: StepHandler) -> None:
        """`handler` does the step `step`. Raises InvalidDefinition when it is none, or when there is one already."""
        self._register(_Mark(step, undo=False), handler)

    def register_compensation_handler(self, step: str, handler: StepHandler) -> None:
        """`handler` undoes the step `step`. Raises InvalidDefinition as above."""
        self._register(_Mark(step, undo=True), handler)

    def collect(self, holder: object) -> int:
        """Register every marked function of a module (or object with marked methods); returns how many there are."""
        found = 0
        for name in dir(holder):
            # Without running properties of the holder, which may do anything.
            mark = getattr(inspect.getattr_static(holder, name), _MARK, None)
            if isinstance(mark, _Mark):
                self._register(mark, getattr(holder, name))
                found += 1
        return found

    def has(self, step: str, *, undo: bool) -> bool:
        """Whether a function does (or undoes) the step."""
        return (step, undo) in self._handlers

    def breaker(self, step: str) -> Breaker | None:
        """The circuit breaker that the functions of a step are marked with. Raises InvalidDefinition when they differ."""
        found = {
            breaker for undo in (False, True) if (breaker := breaker_of(self._function(step, undo=undo))) is not None
        }
        if len(found) > 1:
            raise InvalidDefinition(
                f"handlers of {step!r}",
                "do and undo are marked with different circuit breakers, but the step has one",
                "mark both alike, or one only",
            )
        return next(iter(found), None)

    def cache(self, step: str) -> Cache | None:
        """What the function that does a step is marked with, see cached_saga_step."""
        return cache_of(self._function(step, undo=False))

    async def registered(self, step: str, *, undo: bool) -> None:
        """Return once a function for it is registered."""
        while not self.has(step, undo=undo):
            await self._changed.wait()

    async def call(self, step: str, request: Request) -> Outcome:
        """Run the function registered for a step; see Caller.call. It must be there: see `has`."""
        handler = self._handlers[step, request.undo]
        name = handler.name
        body = orjson.loads(request.body)
        context = StepContext(
            body["context"],
            saga_id=body["saga_id"],
            step=body["step"],
            idempotency_key=request.idempotency_key,
            data=body["data"],
            result=body.get("result"),
            trace=request.traceparent,
        )
        job: Future[Any] | None = None
        try:
            # Most functions are coroutines: they are awaited without anything in between.
            if handler.awaits:
                work = handler.function(context)
            else:
                job = self._begin(handler, context)
                work = _of_thread(job)
            result = await bounded(work, request.timeout_seconds)
        except StepRejected as error:
            return Rejected(said(error) or f"{name} raised StepRejected", _spread())
        except TimeoutError as error:
            if job is not None and not job.done() and not job.cancel():
                self._of_threads().overran(job, name)
            if job is not None and job.cancelled():
                # It waited for a thread for all of its time, so it is known not to have happened.
                return Failed(self._crowded(name, request.timeout_seconds), False, _spread())
            # The handler's own TimeoutError carries a text, that of the bound does not.
            own = f" ({text})" if (text := said(error)) else ""
            return Failed(f"{name} gave no answer in {request.timeout_seconds:.3g} s{own}", True, _spread())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something that the handler awaited was cancelled, not this call.
            return Failed(f"{name} was cancelled from inside", True, _spread())
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(error, SystemExit) or (
                type(error) is KeyboardInterrupt and self._may_be_a_signal(job, error)
            ):
                # It ends the process, whose log would not say why.
                logger.exception("%s raised %s in saga %s", name, type(error).__name__, context.saga_id)
                raise
            # Also what is no Exception, a panic of an extension for instance: it must not end the other calls.
            return Failed(f"{name} raised {type(error).__name__}: {said(error)}", True, _spread())
        return outcome_of(name, result)

    def look(self, board: Board) -> None:
        """Tell when no plain function can be called, because all threads are held by such that do not end."""
        blocked = self._threads.blocked() if self._threads is not None else ""
        if blocked:
            message = f"{blocked}; calls of other such functions fail unmade: give what these wait for a time-out, then restart the process"
            board.report(ProblemReason.HANDLERS_HANG, message, blocking=False)
        else:
            board.clear(ProblemReason.HANDLERS_HANG)

    def close(self) -> None:
        """Let go of the threads; functions that still run in them end by themselves, or with the process."""
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    def _register(self, mark: _Mark, handler: StepHandler) -> None:
        path = f"{'compensation' if mark.undo else 'step'} handler {mark.step!r}"
        if not callable(handler):
            raise InvalidDefinition(path, f"{type(handler).__name__} cannot be called", "give a function")
        if mark in self._handlers and self._handlers[mark].function != handler:
            raise InvalidDefinition(path, "is registered already", "give each step one function")
        does = handler if not mark.undo else self._function(mark.step, undo=False)
        if cache_of(does) is not None and (mark.undo or self.has(mark.step, undo=True)):
            raise InvalidDefinition(
                path,
                "the step is marked with @cached_saga_step and has a compensation",
                "remove the one or the other: what is undone has to be done each time",
            )
        awaits = inspect.iscoroutinefunction(handler) or (
            not isinstance(handler, type)  # calling that one makes an object, whatever the object's own __call__ is
            and inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004
        )
        name = f"the {'compensation' if mark.undo else 'step'} handler of {mark.step!r}"
        self._handlers[mark] = _Handler(handler, awaits, name)
        self._changed.set()
        self._changed = asyncio.Event()

    def _function(self, step: str, *, undo: bool) -> StepHandler | None:
        found = self._handlers.get((step, undo))
        return found.function if found else None

    def _may_be_a_signal(self, job: "Future[Any] | None", error: BaseException) -> bool:
        """Whether a KeyboardInterrupt may come from outside of the handler. Signals never interrupt other threads than the main one."""
        of_thread = job is not None and job.done() and not job.cancelled() and job.exception() is error
        return self._interrupts and not of_thread

    def _begin(self, handler: _Handler, context: StepContext) -> "Future[Any]":
        return self._of_threads().submit(partial(contextvars.copy_context().run, _called, handler.function, context))

    def _of_threads(self) -> Threads:
        if self._threads is None:
            self._threads = Threads()
        return self._threads

    def _crowded(self, name: str, seconds: float) -> str:
        busy = self._of_threads().busy_with()
        return f"{name} was not called: no thread was free for it in {seconds:.3g} s, {busy}"


async def _of_thread(job: "Future[Any]") -> Any:
    result = await asyncio.wrap_future(job)
    # A plain function may hand on the coroutine of another one.
    return await result if inspect.isawaitable(result) else result


def _called(function: StepHandler, context: StepContext) -> Any:
    """Call a plain function. As in a coroutine, its StopIteration is an error: no future can hold that one."""
    try:
        return function(context)
    except StopIteration as error:
        raise RuntimeError("StopIteration") from error


def outcome_of(name: str, result: object) -> Succeeded | Unusable:
    """What a handler's return value means. It did its work, so a value that cannot be kept is no failure to retry."""
    if result is None:
        return Succeeded({})
    if type(result) is not dict and not isinstance(result, Mapping):
        return Unusable(f"{name} returned {type(result).__name__}, no JSON object: return a dict or None")
    try:
        encoded = as_json(result if type(result) is dict else dict(result))
    except TypeError as error:
        return Unusable(f"{name} returned what is no JSON ({error}): return a dict of JSON values")
    if len(encoded) > ANSWER_LIMIT_BYTES:
        return Unusable(f"{name} returned {len(encoded)} bytes, {ANSWER_LIMIT_BYTES} are allowed: return identifiers")
    return succeeded(orjson.loads(encoded), name)


def _spread() -> float:
    return random.random()  # noqa: S311  # spreads waits, guards nothing
