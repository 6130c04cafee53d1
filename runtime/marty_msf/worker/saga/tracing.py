"""OpenTelemetry spans of starts and calls, where its API is installed (the extra `otel`) and a provider is set up; else nothing.

A saga outlives processes, so it has no span of its own: its start is one, and each call is one below it. Names and attributes
follow OpenTelemetry's semantic conventions; those of sagas begin with `marty.`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from marty_msf.core.saga.calling import HttpCall, PythonCall
from marty_msf.core.saga.events import Succeeded
from marty_msf.core.saga.outcome import Outcome
from marty_msf.core.trace import TRACEPARENT, of_saga, parsed
from marty_msf.worker.saga.calling.calls import Caller, Request

try:
    from opentelemetry import trace as _otel
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

SCOPE: Final = "marty_msf"
Kind: TypeAlias = Literal["CLIENT", "CONSUMER", "INTERNAL", "PRODUCER", "SERVER"]
Attributes: TypeAlias = Mapping[str, str | int]
_ERROR_CHARACTERS: Final = 500


def is_set_up() -> bool:
    """Whether spans are made."""
    if not _INSTALLED:
        return False
    return not isinstance(_otel.get_tracer_provider(), _otel.ProxyTracerProvider | _otel.NoOpTracerProvider)


def instant(name: str, kind: Kind, parent: str | None, attributes: Attributes) -> str | None:
    """The traceparent of a span that ends at once, below `parent` or what goes on here; without spans the parent itself."""
    parent = parsed(parent)
    if not is_set_up():
        return parent
    here = _otel.get_current_span().get_span_context().is_valid
    span = _otel.get_tracer(SCOPE).start_span(
        name, None if here else _context(parent), _otel.SpanKind[kind], attributes=dict(attributes)
    )
    span.end()
    return _traceparent(span)


def by_message(topic: str, parent: str | None) -> str | None:
    """`instant` for a start by a Kafka event."""
    attributes = {**_messaging(topic), "messaging.operation.type": "process", "messaging.operation.name": "process"}
    return instant(f"process {topic}", "CONSUMER", parent, attributes)


def of_message(topic: str, saga_id: str, step: str, parent: str | None) -> str:
    """`instant` for a command that is sent."""
    about = {"marty.saga.id": saga_id, "marty.saga.step": step}
    attributes = {**_messaging(topic), "messaging.operation.type": "send", "messaging.operation.name": "send", **about}
    own = parent or of_saga(saga_id)
    return instant(f"send {topic}", "PRODUCER", own, attributes) or own


def of_event(topic: str, parent: str | None) -> str | None:
    """`instant` for an event that goes into the outbox; None where no trace is known of."""
    attributes = {**_messaging(topic), "messaging.operation.type": "create", "messaging.operation.name": "create"}
    return instant(f"create {topic}", "PRODUCER", parent, attributes)


def note(attributes: Attributes) -> None:
    """Put more on the span that goes on here, if any."""
    if _INSTALLED:
        _otel.get_current_span().set_attributes(dict(attributes))


def traced(caller: Caller, resource: str) -> Caller:
    """The caller with a span around each call; the caller itself where no spans are made."""
    return _Traced(caller, resource) if is_set_up() else caller


class _Traced:
    def __init__(self, caller: Caller, resource: str) -> None:
        self._caller = caller
        self._resource = resource
        self._tracer = _otel.get_tracer(SCOPE)

    async def call(self, request: Request) -> Outcome:
        """See Caller.call."""
        with self._span(request) as span:
            outcome = await self._caller.call(replace(request, traceparent=_traceparent(span)))
            if not isinstance(outcome, Succeeded):
                span.set_attribute("error.type", type(outcome).__name__)
                span.set_status(_otel.StatusCode.ERROR, outcome.error[:_ERROR_CHARACTERS])
            return outcome

    @contextmanager
    def _span(self, request: Request) -> Iterator[Any]:
        name, kind, attributes = _about(request)
        about = {
            "marty.saga.id": request.saga_id,
            "marty.saga.resource": self._resource,
            "marty.saga.step": request.step.name,
            "marty.saga.direction": "undo" if request.undo else "do",
        }
        with self._tracer.start_as_current_span(
            name,
            _context(request.traceparent or of_saga(request.saga_id)),
            _otel.SpanKind[kind],
            attributes={**attributes, **about},
            record_exception=False,
        ) as span:
            yield span


def _about(request: Request) -> tuple[str, Kind, Attributes]:
    """Name, kind and attributes of a call, with as many values as there are steps, not instances."""
    call = request.step.call
    if not isinstance(call, HttpCall):
        handler = call.handler if isinstance(call, PythonCall) else request.step.name
        return f"{handler} {'undo' if request.undo else 'do'}", "INTERNAL", {"code.function.name": handler}
    template = call.undo_url if request.undo else call.url
    address = urlsplit(template.source if template else f"http://{request.service}/{request.action}")
    attributes: dict[str, str | int] = {
        "http.request.method": call.method,
        "server.address": address.hostname or "",
        "server.port": address.port or (443 if address.scheme == "https" else 80),
        "url.template": address.path,
    }
    return f"{call.method} {address.path}", "CLIENT", attributes


def _messaging(topic: str) -> dict[str, str | int]:
    return {"messaging.system": "kafka", "messaging.destination.name": topic}


def _context(traceparent: str | None) -> "Context":
    carrier = {} if traceparent is None else {TRACEPARENT: traceparent}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _traceparent(span: Any) -> str:
    its = span.get_span_context()
    return f"00-{its.trace_id:032x}-{its.span_id:016x}-{its.trace_flags:02x}"
