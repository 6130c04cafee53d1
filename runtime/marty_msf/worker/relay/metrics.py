"""What the relay shows on `/metrics`."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from marty_msf.core.worker_status import RelayTotals
from marty_msf.store.outbox import Writer
from marty_msf.worker.relay.retention_numbers import RetentionNumbers


class _Ever(Collector):
    """Counters that the database keeps."""

    def __init__(self) -> None:
        self.failed = 0
        self.dead = 0

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        yield CounterMetricFamily(
            "marty_outbox_failed_attempts",
            "Attempts that Kafka refused, ever, in the whole outbox; the same in every pod.",
            value=self.failed,
        )
        yield CounterMetricFamily(
            "marty_outbox_dead_lettered_events",
            "Events given up, ever, in the whole outbox; the same in every pod.",
            value=self.dead,
        )


class RelayMetrics:
    """Counters of this process and numbers of the whole outbox."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.retention = RetentionNumbers(registry)
        self.published = Counter(
            "marty_outbox_published_events",
            "Events this process published: acknowledged and marked.",
            registry=registry,
        )
        self.lanes = Gauge("marty_outbox_lanes", "Lanes this process publishes.", registry=registry)
        self._depth = Gauge(
            "marty_outbox_queue_depth",
            "Committed events neither published nor dead, in the whole outbox.",
            registry=registry,
        )
        self._lag = Gauge(
            "marty_outbox_processing_lag_seconds",
            "Age of the oldest event that the relay has not come by.",
            registry=registry,
        )
        self._oldest = Gauge(
            "marty_outbox_oldest_pending_seconds",
            "Age of the oldest event neither published nor dead, with those that are tried again.",
            registry=registry,
        )
        self._error_rate = Gauge(
            "marty_outbox_error_rate",
            "Share of the attempts of the last 30 s that Kafka refused, in the whole outbox.",
            registry=registry,
        )
        self._dead = Gauge(
            "marty_outbox_dead_letters",
            "Dead letters there are now, by cause: the 20 most frequent.",
            ["cause", "topic", "event_type"],
            registry=registry,
        )
        self._writer = Gauge(
            "marty_outbox_oldest_open_writer_seconds",
            "Age of the longest open writing transaction of this database: its own events wait for its end.",
            registry=registry,
        )
        self._ever = _Ever()
        registry.register(self._ever)

    def show(self, totals: RelayTotals, writer: Writer | None) -> None:
        """Set the numbers."""
        self._depth.set(totals.pending)
        self._lag.set(totals.lag_seconds)
        self._oldest.set(totals.oldest_pending_seconds)
        self._error_rate.set(totals.error_rate)
        self._ever.failed, self._ever.dead = totals.failed_total, totals.dead_total
        self._dead.clear()
        for it in totals.dead_letter_groups:
            self._dead.labels(it.cause, it.topic, it.event_type).set(it.count)
        self._writer.set(writer.seconds if writer else 0)
