"""What `kubectl get` prints of each kind; columns with priority 1 only with `-o wide`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Column:
    """One printer column; `path` is a JSONPath below the resource."""

    name: str
    type: Literal["string", "integer", "number", "date"]
    path: str
    description: str
    wide: bool = False

    def render(self) -> dict[str, str | int]:
        """As in `additionalPrinterColumns`."""
        return {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        } | ({"priority": 1} if self.wide else {})


_READY: Final = (
    Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether it does its work."),
    Column("State", "string", ".spec.state", "Running, Paused or Stopped."),
)
_AGE: Final = Column("Age", "date", ".metadata.creationTimestamp", "Time since it was created.")
_WIDE: Final = (
    Column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not.", wide=True),
    Column("Replicas", "integer", ".status.readyReplicas", "Worker pods that are ready.", wide=True),
    Column("Revision", "string", ".status.appliedRevision", "Configuration the workers should run.", wide=True),
)

COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "Saga": (
        *_READY,
        Column("Active", "integer", ".status.active", "Instances that have not ended."),
        Column("Completed", "integer", ".status.completed", "Instances whose steps all succeeded."),
        Column("Compensated", "integer", ".status.compensated", "Instances that were undone."),
        Column("Parked", "integer", ".status.parked", "Instances that wait for a person."),
        Column("P95", "string", ".status.p95", "95 of 100 instances ended within this time."),
        _AGE,
        *_WIDE,
        Column("Failed", "integer", ".status.failed", "Instances that ended before anything had happened.", wide=True),
        Column("Cancelled", "integer", ".status.cancelled", "Instances that a person cancelled.", wide=True),
        Column("Stuck", "integer", ".status.stuck", "Active instances without progress for too long.", wide=True),
        Column("Breakers", "string", ".status.openBreakers", "Services that are not called, or only tried.", wide=True),
        Column("Last-Error", "string", ".status.lastError", "The newest failure of a step.", wide=True),
    ),
    "OutboxRelay": (
        *_READY,
        Column("Pending", "integer", ".status.pending", "Events that are neither published nor dead."),
        Column("Lag", "string", ".status.lag", "Age of the oldest event that the relay has not come by."),
        Column("Rate", "string", ".status.rate", "Present rate of publishing."),
        Column("Dead", "integer", ".status.deadLettered", "Events given up that wait for a person."),
        _AGE,
        *_WIDE,
        Column("Published", "integer", ".status.publishedTotal", "Events published in all.", wide=True),
        Column("Failed", "integer", ".status.failed", "Attempts refused in all.", wide=True),
        Column("Open-Writer", "string", ".status.oldestOpenWriter", "Transaction open for over a minute.", wide=True),
    ),
    "Projection": (
        *_READY,
        Column("Lag", "integer", ".status.lag", "Events that wait in Kafka."),
        Column("Lag-Seconds", "number", ".status.lagSeconds", "Age of the oldest event that waits."),
        _AGE,
        *_WIDE,
        Column("Processed", "integer", ".status.processedTotal", "Events folded in all.", wide=True),
        Column("Duplicates", "integer", ".status.duplicatesTotal", "Events that came again.", wide=True),
    ),
}
