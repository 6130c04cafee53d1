"""The OutboxRelay kind: reads `marty.outbox` in commit-safe order and publishes to Kafka."""

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from marty_msf.core.resources.outbox_retention import Retention
from marty_msf.core.resources.spec import Kafka, Model, Rule, Workload, check_waits, waits_ascend


class RelayRetry(Model):
    """Waits between attempts to publish while Kafka refuses; the events wait in Postgres and keep their order."""

    backoff_ms: int = Field(200, ge=1, le=3_600_000, description="First wait.")
    max_backoff_ms: int = Field(10_000, ge=1, le=86_400_000, description="Longest wait.")

    RULES: ClassVar[Sequence[Rule]] = (waits_ascend("backoffMs"),)

    @model_validator(mode="after")
    def _waits_ascend(self) -> Self:
        check_waits("spec.retry.backoffMs", self.backoff_ms, self.max_backoff_ms)
        return self


class OutboxRelaySpec(Workload):
    """Where the outbox is and how it is drained."""

    kafka: Kafka = Field(description="Where the events go.")
    batch_size: int = Field(
        500,
        ge=1,
        le=100_000,
        description="Events handed to Kafka at once, at most. Up to eight such batches wait for their acknowledgement; a crash sends at most these again.",
    )
    polling_interval_ms: int = Field(
        100,
        ge=1,
        le=60_000,
        description="Longest idle wait before the outbox is read again; a busy relay does not wait.",
    )
    prefetch_count: int = Field(5000, ge=1, le=100_000, description="Events read from Postgres at once.")
    retry: RelayRetry = Field(
        default_factory=lambda: RelayRetry(), description="Waits between attempts to publish while Kafka refuses."
    )
    retention: Retention = Field(
        default_factory=lambda: Retention(), description="How long published events are kept, and where they go then."
    )
