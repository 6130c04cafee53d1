"""The outbox in Prometheus, by the names of the library's document."""

from prometheus_client import CollectorRegistry, Gauge

from marty_msf.patterns.outbox.status import OutboxMetrics


class OutboxGauges:
    """Gauges of the whole outbox, the same from every process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Gauge(
            "outbox_processing_lag",
            "Age of the oldest event that the relay has not come by, in seconds.",
            registry=registry,
        )
        self._throughput = Gauge("outbox_throughput", "Events published per second.", registry=registry)
        self._error_rate = Gauge(
            "outbox_error_rate", "Share of the attempts of the last 30 s that Kafka refused.", registry=registry
        )
        self._depth = Gauge("outbox_queue_depth", "Events that wait to be published.", registry=registry)

    def show(self, metrics: OutboxMetrics) -> None:
        """Set the gauges."""
        self._lag.set(metrics.processing_lag_seconds)
        self._throughput.set(metrics.events_per_second)
        self._error_rate.set(metrics.error_rate)
        self._depth.set(metrics.pending_events)
