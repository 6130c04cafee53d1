"""What a projection shows on `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from marty_msf.worker.kafka_lag import Lag
from marty_msf.worker.projection.projector import Pass


class ProjectionMetrics:
    """Counters of this process and gauges of the whole projection."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._processed = Counter(
            "marty_projection_processed_events",
            "Events this process applied, or passed because their type has no mapping.",
            registry=registry,
        )
        self._duplicates = Counter(
            "marty_projection_duplicate_events", "Events this process discarded as duplicates.", registry=registry
        )
        self._repeated = Counter(
            "marty_projection_repeated_transactions",
            "Transactions that were rolled back and repeated: a lease was lost or Postgres refused a row.",
            registry=registry,
        )
        self._partitions = Gauge("marty_projection_partitions", "Partitions this process owns.", registry=registry)
        self._lag_events = Gauge(
            "marty_projection_lag_events", "Events in Kafka not yet applied, in all partitions.", registry=registry
        )
        self._lag_seconds = Gauge(
            "marty_projection_lag_seconds", "Upper bound of the age of the oldest event not applied.", registry=registry
        )

    def passed(self, done: Pass, partitions: int) -> None:
        """Count one pass."""
        self._processed.inc(done.stored - done.duplicates)
        self._duplicates.inc(done.duplicates)
        self._repeated.inc(done.repeated)
        self._partitions.set(partitions)

    def lag(self, lag: Lag) -> None:
        """Set the gauges of the lag."""
        self._lag_events.set(lag.events)
        self._lag_seconds.set(lag.seconds)
