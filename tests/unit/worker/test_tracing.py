"""Spans of messages, and their absence where nobody set OpenTelemetry up."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from marty_msf.core.trace import of_saga
from marty_msf.worker.saga import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"
UNSAMPLED = GIVEN[:-2] + "00"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def test_without_a_provider_a_trace_is_handed_on_as_it_came() -> None:
    assert not tracing.is_set_up()
    assert tracing.by_message("orders", GIVEN) == GIVEN
    assert tracing.by_message("orders", "none") is None
    assert tracing.of_message("commands", "018f", "ship", GIVEN) == GIVEN
    assert tracing.of_message("commands", "018f", "ship", None) == of_saga("018f")


def test_messages_are_spans_of_the_trace_they_belong_to(spans: InMemorySpanExporter) -> None:
    started = tracing.by_message("orders", GIVEN)
    sent = tracing.of_message("commands", "018f", "ship", started)

    received, command = spans.get_finished_spans()
    assert (received.name, received.kind.name) == ("process orders", "CONSUMER")
    assert (command.name, command.kind.name) == ("send commands", "PRODUCER")
    assert dict(command.attributes or {})["messaging.destination.name"] == "commands"
    assert received.context
    assert command.parent
    assert command.parent.span_id == received.context.span_id
    assert sent.startswith(f"00-{TRACE}-")
    assert sent != started


def test_what_nobody_samples_is_not_recorded_and_says_so_to_the_next(spans: InMemorySpanExporter) -> None:
    assert (tracing.by_message("orders", UNSAMPLED) or "").split("-")[1] == TRACE
    assert tracing.of_message("commands", "018f", "ship", None).endswith("-00")
    assert spans.get_finished_spans() == ()
