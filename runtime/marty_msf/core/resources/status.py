"""The status of each kind, as the operator writes it. Small on purpose: counts, never items (etcd is no database)."""

from typing import Literal

from pydantic import Field

from marty_msf.core.resources.spec import Model


class Condition(Model):
    """As in the Kubernetes API conventions (metav1.Condition)."""

    type: str = Field(max_length=64)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=128)
    message: str = Field(max_length=2048)
    last_transition_time: str = Field(max_length=40)
    observed_generation: int


class Status(Model):
    """Common to all kinds."""

    observed_generation: int = 0
    conditions: list[Condition] = Field(default_factory=list, max_length=16)
    replicas: int = 0
    ready_replicas: int = 0
    selector: str = Field("", max_length=512)
    #: The configuration the workers should run, and in how many of them it does.
    applied_revision: str = Field("", max_length=64)
    revision_replicas: int = 0


class SagaStatus(Status):
    active: int = 0
    completed: int = 0
    compensated: int = 0
    parked: int = 0
    average_duration_ms: int = 0
    p95_duration_ms: int = 0
    p95: str = Field("", max_length=32, description="p95DurationMs for people.")
    oldest_active_seconds: int = 0
    definition_revision: str = Field("", max_length=64)
    last_error: str = Field("", max_length=1024)


class OutboxRelayStatus(Status):
    pending: int = 0
    published_total: int = 0
    events_per_second: float = 0
    lag_seconds: float = 0
    lag: str = Field("", max_length=32, description="lagSeconds for people.")
    rate: str = Field("", max_length=32, description="eventsPerSecond for people.")


class ProjectionStatus(Status):
    processed_total: int = 0
    duplicates_total: int = 0
    lag: int = 0
    lag_seconds: float = 0
