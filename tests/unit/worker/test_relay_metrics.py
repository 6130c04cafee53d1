"""Metrics of the outbox."""

from prometheus_client import CollectorRegistry

from marty_msf.core.worker_status import DeadLetterGroup, RelayTotals
from marty_msf.store.outbox import Writer
from marty_msf.worker.relay.metrics import RelayMetrics


def group(cause: str, count: int) -> DeadLetterGroup:
    return DeadLetterGroup(cause=cause, count=count, sample=1, topic="t", event_type="e", message="", since="")


def test_numbers_of_the_whole_outbox_are_shown_and_causes_that_are_gone_are_not() -> None:
    registry = CollectorRegistry()
    metrics = RelayMetrics(registry)
    groups = [group("a", 3), group("b", 1)]
    totals = RelayTotals(
        pending=4, lag_seconds=1.5, failed_total=7, error_rate=0.25, dead_total=9, dead_letter_groups=groups
    )

    metrics.show(totals, Writer("pid 1 psql", 61.0))

    assert registry.get_sample_value("marty_outbox_queue_depth") == 4
    assert registry.get_sample_value("marty_outbox_processing_lag_seconds") == 1.5
    assert registry.get_sample_value("marty_outbox_failed_attempts_total") == 7
    assert registry.get_sample_value("marty_outbox_dead_lettered_events_total") == 9
    assert registry.get_sample_value("marty_outbox_error_rate") == 0.25
    assert registry.get_sample_value("marty_outbox_oldest_open_writer_seconds") == 61
    labels = {"cause": "a", "topic": "t", "event_type": "e"}
    assert registry.get_sample_value("marty_outbox_dead_letters", labels) == 3

    metrics.show(RelayTotals(dead_letter_groups=[group("b", 1)]), None)

    assert registry.get_sample_value("marty_outbox_dead_letters", labels) is None
    assert registry.get_sample_value("marty_outbox_oldest_open_writer_seconds") == 0
