"""A step is done by the handler that this process has for it, else over HTTP by its service."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from marty_msf.core.saga.calling import PythonCall
from marty_msf.core.saga.events import Misconfigured, Succeeded, Unusable
from marty_msf.core.saga.outcome import Outcome
from marty_msf.core.saga.own_data import OWN_DATA
from marty_msf.patterns.saga.gate import handler_name
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.calling.handlers import Handlers
from marty_msf.worker.saga.calling.http_caller import HttpCaller

_TAKEN: Final = f"the name {OWN_DATA!r} is reserved: rename the member"


class LibraryCaller:
    """Calls of one process; the gate lets none through whose handler is missing."""

    def __init__(self, handlers: Handlers, http: HttpCaller, services: Mapping[str, str]) -> None:
        """`services` gives `host:port` for service names, where the name itself is no address."""
        self._handlers = handlers
        self._http = http
        self._services = services

    async def call(self, request: Request) -> Outcome:
        """See Caller.call."""
        step = request.step
        handler = handler_name(self._handlers, step, undo=request.undo)
        if handler is not None:
            outcome = await self._handlers.call(handler, request)
        elif isinstance(step.call, PythonCall):
            return Misconfigured(f"step {step.name!r} has no handler in this process: register it")
        else:
            address = self._services.get(request.service, request.service)
            outcome = await self._http.call(replace(request, service=address))
        if isinstance(outcome, Succeeded) and OWN_DATA in outcome.result:
            return Unusable(f"the answer of step {step.name!r} cannot be kept: {_TAKEN}")
        return outcome
