"""Each step is called the way its definition says."""

from collections.abc import Awaitable

from marty_msf.core.saga.calling import HttpCall, KafkaCall
from marty_msf.core.saga.events import Misconfigured
from marty_msf.core.saga.outcome import Outcome
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.calling.handlers import Handlers
from marty_msf.worker.saga.calling.http_caller import HttpCaller


class Callers:
    """All call forms of one worker."""

    def __init__(self, http: HttpCaller, handlers: Handlers) -> None:
        self._http = http
        self._handlers = handlers

    def call(self, request: Request) -> Awaitable[Outcome]:
        """See Caller.call."""
        form = request.step.call
        if isinstance(form, HttpCall):
            return self._http.call(request)
        if isinstance(form, KafkaCall):
            # An instance that began under an earlier definition: the present one was checked.
            return _misconfigured(
                "it is called over Kafka, but spec.kafka is missing now:"
                " bring it back until the instances of the earlier definition have ended"
            )
        if not self._handlers.has(form.handler, undo=request.undo):
            # An instance that began under an earlier definition: the present one was checked at the start.
            mark = "saga_compensation" if request.undo else "saga_step"
            return _misconfigured(
                f"spec.runtime.handlers has no function marked with @{mark}({form.handler!r}) any more:"
                " bring it back until the instances of the earlier definition have ended"
            )
        return self._handlers.call(form.handler, request)


async def _misconfigured(error: str) -> Outcome:
    return Misconfigured(error)
