"""Steps as coroutine functions by action, for tests and the engine's own benchmark; what users write is in `handlers`."""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from marty_msf.core.errors import MartyError
from marty_msf.core.saga.events import Failed, Misconfigured, Rejected, Succeeded, Unusable
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES, Outcome, succeeded
from marty_msf.worker.saga.bounded import bounded
from marty_msf.worker.saga.calling.calls import Request


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
            return _outcome(name, await bounded(handler(call), request.timeout_seconds))
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
