"""What the relay shows on `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from marty_msf.core.worker_status import RelayTotals
from marty_msf.store.outbox import Writer
from marty_msf.worker.relay.retention_numbers import RetentionNumbers


class RelayMetrics:
    """Counters of this process and gauges of the whole outbox."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.retention = RetentionNumbers(registry)
        self.published = Counter(
            "marty_relay_published_events", "Events this process published: acknowledged and marked.", registry=registry
        )
        self.lanes = Gauge("marty_relay_lanes", "Lanes this process publishes.", registry=registry)
        self._pending = Gauge(
            "marty_relay_pending_events", "Committed events not yet published, in the whole outbox.", registry=registry
        )
        self._lag = Gauge("marty_relay_lag_seconds", "Age of the oldest event not yet published.", registry=registry)
        self._writer = Gauge(
            "marty_outbox_oldest_open_writer_seconds",
            "Age of the longest open writing transaction of this database: its own events wait for its end.",
            registry=registry,
        )

    def show(self, totals: RelayTotals, writer: Writer | None) -> None:
        """Set the gauges."""
        self._pending.set(totals.pending)
        self._lag.set(totals.lag_seconds)
        self._writer.set(writer.seconds if writer else 0)
