"""What the outbox keeps and what its janitor did, on `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from marty_msf.store.outbox_retention import Retained


class RetentionNumbers:
    """Gauges of the whole outbox, and counters of what this process did as its janitor."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.emptied = Counter(
            "marty_outbox_retained_slots_emptied",
            "Slots of the outbox that this process emptied after their retention.",
            registry=registry,
        )
        self.archived = Counter(
            "marty_outbox_retained_events_archived",
            "Events that this process copied into the archive.",
            registry=registry,
        )
        self._slots = Gauge(
            "marty_outbox_retained_slots",
            "Slots of the outbox that are not empty, of four; four of them for long means that none can be emptied.",
            registry=registry,
        )
        self._bytes = Gauge(
            "marty_outbox_retained_bytes", "Size of the outbox with published events and indexes.", registry=registry
        )
        self._oldest = Gauge(
            "marty_outbox_retained_oldest_seconds",
            "Time since the oldest slot of the outbox that is not empty began to take events.",
            registry=registry,
        )

    def show(self, retained: Retained) -> None:
        """Set the gauges."""
        self._slots.set(retained.slots)
        self._bytes.set(retained.bytes)
        self._oldest.set(retained.oldest_seconds)
