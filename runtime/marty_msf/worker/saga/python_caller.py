"""Steps as coroutine functions of this process. No resource field names them yet; benchmarks and tests use them."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from marty_msf.core.errors import MartyError
from marty_msf.core.saga.events import Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES, Outcome, succeeded
from marty_msf.worker.saga.calls import Request


class StepRejected(MartyError):
    """Raised by a handler: refused for a business reason, nothing happened."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """What a handler gets: the fields of the call contract."""

    saga_id: str
    step: str
    idempotency_key: str
    context: Mapping[str, Any]
    data: Mapping[str, Any]
    #: Of an undo: the step's result; None when it is unknown whether the step happened.
    result: Mapping[str, Any] | None


#: Returns what merges into the context, or None. Raises StepRejected, or anything else to be called again.
Handler: TypeAlias = Callable[[StepCall], Awaitable[Mapping[str, Any] | None]]


class PythonCaller:
    """Calls the handler registered for an action (`<service>/<action>`)."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def call(self, request: Request) -> Outcome:
        """See Caller.call."""
        name = f"{request.service}/{request.action}"
        handler = self._handlers.get(name)
        if handler is None:
            return Misconfigured(f"no handler is registered for {name!r}: register one")
        body = orjson.loads(request.body)
        call = StepCall(
            body["saga_id"], body["step"], request.idempotency_key, body["context"], body["data"], body.get("result")
        )
        try:
            return _outcome(name, await _bounded(handler(call), request.timeout_seconds))
        except StepRejected as error:
            return Rejected(str(error), random.random())  # noqa: S311  # spreads waits, guards nothing
        except TimeoutError:
            return _failed(f"{name} gave no answer in {request.timeout_seconds:.3g} s")
        except Exception as error:
            return _failed(f"{name} raised {type(error).__name__}: {error}")


def _failed(error: str) -> Failed:
    return Failed(error, True, random.random())  # noqa: S311  # spreads waits, guards nothing


def _outcome(name: str, result: Mapping[str, Any] | None) -> Succeeded | Unusable:
    if not result:
        return Succeeded({})
    try:
        encoded = orjson.dumps(result)
    except TypeError as error:
        return Unusable(f"{name} returned what is no JSON ({error}): return a dict of JSON values")
    plain = orjson.loads(encoded)
    if not isinstance(plain, dict) or len(encoded) > ANSWER_LIMIT_BYTES:
        return Unusable(f"{name} returned no object, or over {ANSWER_LIMIT_BYTES} bytes: return a small dict")
    return succeeded(plain, name)


async def _bounded(work: Awaitable[Mapping[str, Any] | None], seconds: float) -> Mapping[str, Any] | None:
    """Await a handler for so long; one that never waits costs no timer."""
    waiting = work.__await__()
    result: Mapping[str, Any] | None
    try:
        first = next(waiting)
    except StopIteration as done:
        result = done.value
        return result
    async with asyncio.timeout(seconds):
        result = await _Begun(waiting, first)
        return result


class _Begun:
    """The rest of an awaitable that was begun and gave `first` to wait for."""

    def __init__(self, rest: Generator[Any, Any, Any], first: Any) -> None:
        self._rest = rest
        self._first = first

    def __await__(self) -> Generator[Any, Any, Any]:
        pending = self._first
        while True:
            try:
                try:
                    value = yield pending
                except GeneratorExit:
                    self._rest.close()
                    raise
                except BaseException as error:
                    pending = self._rest.throw(error)
                else:
                    pending = self._rest.send(value)
            except StopIteration as done:
                return done.value
