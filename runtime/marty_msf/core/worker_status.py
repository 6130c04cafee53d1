"""What a worker answers on `/status`: rendered by the worker, parsed by the operator with the same models.

`totals` are global: they come from counter rows that are kept in the same transaction as the work, so every pod of a
resource gives the same numbers and nobody adds them up over pods. `local` is about the answering process only.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from marty_msf.core.resources.kinds import Role
from marty_msf.core.resources.spec import Model


class ProblemReason(StrEnum):
    """Why a worker cannot do its work now. Stable within an API version; becomes the reason of Ready=False."""

    STARTING = "Starting"
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"
    SCHEMA_OUTDATED = "SchemaOutdated"
    BROKER_UNAVAILABLE = "BrokerUnavailable"
    TOPIC_UNAVAILABLE = "TopicUnavailable"
    STEP_SERVICE_UNREACHABLE = "StepServiceUnreachable"
    HANDLERS_UNUSABLE = "HandlersUnusable"
    HANDLERS_HANG = "HandlersHang"
    READ_MODEL_MISMATCH = "ReadModelMismatch"
    POISON_EVENT = "PoisonEvent"
    POSITION_LOST = "PositionLost"
    OUTBOX_OWNED = "OutboxOwned"
    OUTBOX_RESTORED = "OutboxRestored"
    INSTANCES_STUCK = "InstancesStuck"
    HISTORY_NOT_REMOVED = "HistoryNotRemoved"
    OUTBOX_NOT_EMPTIED = "OutboxNotEmptied"
    MAPPING_INVALID = "MappingInvalid"
    INTERNAL_ERROR = "InternalError"


#: Problems that time alone does not mend: the operator shows them as Stalled=True.
STALLED_REASONS = frozenset(
    {
        ProblemReason.HANDLERS_UNUSABLE,
        ProblemReason.READ_MODEL_MISMATCH,
        ProblemReason.POISON_EVENT,
        ProblemReason.POSITION_LOST,
        ProblemReason.OUTBOX_OWNED,
        ProblemReason.OUTBOX_RESTORED,
        ProblemReason.MAPPING_INVALID,
    }
)


class Problem(Model):
    """One reason with a sentence that names value and remedy.

    `blocking`: the worker can do no work at all until it is gone. `unmet`: it does work, and its pod gets requests, but
    something that the spec asks for stands still: the resource is not Ready.
    """

    reason: ProblemReason
    message: str = Field(max_length=2000)
    blocking: bool = True
    unmet: bool = False


class Stuck(Model):
    """Live instances of the answering process that have made no progress for longer than `stuckAfterSeconds`."""

    count: int = Field(0, ge=0)
    #: Last progress of the one that stands still for longest (milliseconds since 1970), and what it waits for.
    since_ms: int = 0
    diagnosis: str = Field("", max_length=1024)


class Local(Model):
    """About the answering process only."""

    holder: str
    lanes: int = Field(ge=0)
    started_at: str
    duration_bucket_bounds_ms: list[float] = Field(default_factory=list)
    duration_bucket_counts: list[int] = Field(default_factory=list)
    #: Live saga instances on this process's lanes, by the revision they follow; None while it works on none.
    active_by_revision: dict[str, int] | None = None
    #: None while it works on no saga instances.
    stuck: Stuck | None = None


class BreakerState(StrEnum):
    """What a circuit breaker that is not closed does."""

    #: No call is made.
    OPEN = "Open"
    #: Single calls try whether the service is back.
    HALF_OPEN = "HalfOpen"


class SagaTotals(Model):
    role: Literal[Role.SAGA] = Role.SAGA
    active: int = 0
    completed: int = 0
    compensated: int = 0
    failed: int = 0
    cancelled: int = 0
    parked: int = 0
    #: By service; closed ones are left out.
    breakers: dict[str, BreakerState] = Field(default_factory=dict)
    average_duration_ms: float = 0
    oldest_active_seconds: float = 0
    definition_revision: str = ""
    last_error: str | None = None


class DeadLetterGroup(Model):
    """Dead letters there are now that died of one cause."""

    cause: str
    count: int
    #: Id of one of them.
    sample: int
    topic: str
    event_type: str
    message: str
    #: When the cause was first seen.
    since: str


class OpenWriter(Model):
    """A transaction that has written and not yet ended: its own events wait for its end."""

    #: Process id and application, or the name of a prepared transaction.
    name: str
    seconds: float


class RelayTotals(Model):
    role: Literal[Role.RELAY] = Role.RELAY
    #: Not published and not dead.
    pending: int = 0
    published_total: int = 0
    events_per_second: float = 0
    #: Age of the oldest event that the relay has not come by.
    lag_seconds: float = 0
    #: The same with those that it came by and holds; those that are to be sent later are not late.
    oldest_pending_seconds: float = 0
    #: Attempts that were refused, ever.
    failed_total: int = 0
    #: Their share of the attempts of the last half minute.
    error_rate: float = 0
    #: Dead letters there are now, and ever were.
    dead: int = 0
    dead_total: int = 0
    #: The most frequent first.
    dead_letter_groups: list[DeadLetterGroup] = Field(default_factory=list)
    #: The one that is open for longest.
    oldest_open_writer: OpenWriter | None = None


class ProjectionTotals(Model):
    role: Literal[Role.PROJECTION] = Role.PROJECTION
    processed_total: int = 0
    duplicates_total: int = 0
    lag: int = 0
    lag_seconds: float = 0


class WorkerStatus(Model):
    """The whole answer of `/status`."""

    resource: str
    revision: str
    ready: bool
    problems: list[Problem] = Field(default_factory=list)
    totals: Annotated[SagaTotals | RelayTotals | ProjectionTotals, Field(discriminator="role")] | None = None
    local: Local
