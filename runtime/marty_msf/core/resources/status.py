"""The status of each kind, as the operator writes it. Small on purpose: counts, never items (etcd is no database)."""

from typing import Literal

from pydantic import Field

from marty_msf.core.resources.spec import Model


class Condition(Model):
    """As in the Kubernetes API conventions (metav1.Condition)."""

    type: str = Field(max_length=64, description="Ready, Reconciling, Stalled or ConfigApplied.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    reason: str = Field(max_length=128, description="Why, as one word that is stable within the API version.")
    message: str = Field(max_length=2048, description="Why, as a sentence with value and remedy.")
    last_transition_time: str = Field(
        max_length=40, description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int = Field(description="metadata.generation that the condition speaks of.")


class Status(Model):
    """Common to all kinds."""

    observed_generation: int = Field(0, description="metadata.generation that the operator has seen last.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="Ready says whether it works, Stalled whether a person is needed, ConfigApplied whether all workers"
        " run the present configuration.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    replicas: int = Field(0, description="Worker pods that exist.")
    ready_replicas: int = Field(0, description="Worker pods that are ready.")
    selector: str = Field("", max_length=512, description="Label selector of the worker pods, for autoscalers.")
    applied_revision: str = Field("", max_length=64, description="Configuration that the workers should run.")
    revision_replicas: int = Field(0, description="Worker pods that run appliedRevision.")


class Revision(Model):
    """Instances that follow one revision of the definition."""

    revision: str = Field(max_length=64, description="The revision.")
    active: int = Field(description="Instances that follow it and have neither ended nor are parked.")


class Breaker(Model):
    """The circuit breaker of one service."""

    service: str = Field(max_length=253, description="The service whose calls it holds back.")
    state: Literal["Open", "HalfOpen"] = Field(
        description="Open: no call is made. HalfOpen: single calls try whether the service is back."
    )


class SagaStatus(Status):
    """How the saga's instances fare. Totals come from counters kept in the same transaction as the work."""

    active: int = Field(0, description="Instances that have not ended.")
    completed: int = Field(0, description="Instances whose steps all succeeded.")
    compensated: int = Field(0, description="Instances that were undone.")
    failed: int = Field(0, description="Instances that ended before anything had happened.")
    cancelled: int = Field(0, description="Instances that a person cancelled and that were undone.")
    parked: int = Field(0, description="Instances that wait for a person.")
    stuck: int = Field(0, description="Active instances without progress for longer than stuckAfterSeconds.")
    stuck_diagnosis: str = Field(
        "", max_length=1024, description="What the one that stands still for longest waits for."
    )
    revisions: list[Revision] = Field(
        default_factory=list,
        max_length=16,
        description="Revisions of the definition that active instances follow, the busiest first.",
    )
    breakers: list[Breaker] = Field(
        default_factory=list, max_length=64, description="Circuit breakers that are not closed."
    )
    open_breakers: str = Field("", max_length=1024, description="Services of these breakers, for people.")
    average_duration_ms: int = Field(0, description="Mean time from start to end of an instance.")
    p95_duration_ms: int = Field(0, description="95 of 100 instances ended within this time.")
    p95: str = Field("", max_length=32, description="p95DurationMs for people.")
    oldest_active_seconds: int = Field(0, description="Age of the oldest instance that has not ended.")
    definition_revision: str = Field("", max_length=64, description="Definition that new instances start with.")
    last_error: str = Field("", max_length=1024, description="The newest failure of a step.")


class DeadLetters(Model):
    """Events that died of one cause and wait for a person."""

    cause: str = Field(max_length=12, description="Name of the cause, for `marty dlq list --cause`.")
    count: int = Field(description="How many there are.")
    sample: int = Field(description="Id of one of them, for `marty dlq show`.")
    topic: str = Field(max_length=249, description="Kafka topic they were for.")
    event_type: str = Field(max_length=200, description="Their event type.")
    message: str = Field(max_length=300, description="What was wrong, without ids, numbers and quoted values.")
    since: str = Field(max_length=40, description="When the cause was first seen.")


class OutboxRelayStatus(Status):
    """How far the outbox is drained."""

    pending: int = Field(0, description="Events that are neither published nor dead.")
    published_total: int = Field(0, description="Events published since the outbox was made.")
    events_per_second: float = Field(0, description="Present rate of publishing.")
    lag_seconds: float = Field(0, description="Age of the oldest event that the relay has not come by.")
    lag: str = Field("", max_length=32, description="lagSeconds for people.")
    rate: str = Field("", max_length=32, description="eventsPerSecond for people.")
    oldest_pending_seconds: float = Field(
        0, description="Age of the oldest event neither published nor dead, with those that are tried again."
    )
    failed: int = Field(0, description="Attempts that Kafka refused since the outbox was made.")
    error_rate: float = Field(0, description="Share of the attempts of the last half minute that Kafka refused.")
    dead_lettered: int = Field(0, description="Events given up that wait for a person now.")
    dead_lettered_total: int = Field(0, description="Events given up since the outbox was made.")
    dead_letter_groups: list[DeadLetters] = Field(
        default_factory=list, max_length=10, description="Causes that dead letters have now, the most frequent first."
    )
    oldest_open_writer: str = Field(
        "",
        max_length=256,
        description="The writing transaction that is open for longest, when that is over a minute: its events wait for"
        " its end.",
    )


class ProjectionStatus(Status):
    """How far the read model is behind its events."""

    processed_total: int = Field(0, description="Events folded into the table since it was made.")
    duplicates_total: int = Field(0, description="Events that came again and changed nothing.")
    lag: int = Field(0, description="Events that wait in Kafka.")
    lag_seconds: float = Field(0, description="Age of the oldest event that waits.")
