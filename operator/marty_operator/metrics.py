"""What the operator counts about itself, for Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_SECONDS: Final = Histogram(
    "marty_operator_reconcile_seconds",
    "Duration of one pass over one resource.",
    ["kind"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RECONCILE_ERRORS: Final = Counter(
    "marty_operator_reconcile_errors_total", "Passes that failed and were put back.", ["kind", "error"]
)
STATUS_WRITES: Final = Counter("marty_operator_status_writes_total", "Writes of the status subresource.", ["kind"])
APPLIES: Final = Counter(
    "marty_operator_applies_total", "Full applies of a resource's objects, by cause.", ["kind", "cause"]
)
QUEUE_DEPTH: Final = Gauge("marty_operator_queue_depth", "Resources that are due and wait for their pass.")
QUEUE_STUCK_SECONDS: Final = Gauge(
    "marty_operator_queue_stuck_seconds", "How long the oldest due or running pass has been waiting."
)
WATCH_EVENTS: Final = Counter("marty_operator_watch_events_total", "Events received from watches.", ["kind"])
LOOP_LAG_SECONDS: Final = Gauge("marty_operator_loop_lag_seconds", "How late the event loop wakes its sleepers.")
