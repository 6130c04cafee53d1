"""The Saga kind: one resource is one saga type; its executions (instances) live in Postgres, never in etcd."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import (
    ACTION,
    SERVICE,
    EventType,
    Expression,
    Kafka,
    Model,
    Retry,
    Rule,
    Topic,
    Workload,
)

NAME = r"^[a-z][a-z0-9_]*$"


class StepDefaults(Model):
    timeout_ms: int = Field(30_000, ge=1, le=3_600_000, description="Longest wait for one call's answer.")
    retry: Retry = Field(
        default_factory=lambda: Retry(), description="Retries of a call whose outcome is unknown or temporary."
    )


class CompensationDefaults(Model):
    retry: Retry = Field(
        default_factory=lambda: Retry(attempts=20),
        description="Retries of an undo; when they are used up the instance is Parked for a person.",
    )


class Step(Model):
    """One call to a service, with the call that undoes it."""

    name: str = Field(min_length=1, max_length=63, pattern=NAME, description="Unique within the saga.")
    service: str = Field(
        min_length=1, max_length=253, pattern=SERVICE, description="Service called: POST http://<service>/<action>."
    )
    action: str = Field(min_length=1, max_length=200, pattern=ACTION, description="Path that does the step.")
    compensation: str | None = Field(
        None, min_length=1, max_length=200, pattern=ACTION, description="Path that undoes the step."
    )
    condition: Expression | None = Field(
        None, description="CEL over the context; the step is skipped when false or when a name in it is missing."
    )
    pivot: bool = Field(False, description="Point of no return: from here on steps are only retried, never undone.")
    data: dict[str, Any] = Field(default_factory=dict, description="Sent to the service as it is.")
    timeout_ms: int | None = Field(None, ge=1, le=3_600_000, description="Overrides stepDefaults.timeoutMs.")
    retry: Retry | None = Field(None, description="Overrides stepDefaults.retry.")


class KafkaTrigger(Model):
    """Starts one instance for each event of a type. The business key makes redelivered events start nothing new."""

    topic: Topic
    event_type: EventType = Field(description="Value of the ce_type header.")
    context: dict[str, Expression] = Field(
        default_factory=dict,
        max_length=64,
        description="Context of the new instance: name to CEL over `event` (the payload). Empty: the whole payload.",
    )
    business_key: Expression | None = Field(
        None, description="CEL over `event`; by default the event's ce_source/ce_id."
    )


class Trigger(Model):
    kafka: KafkaTrigger


class SagaSpec(Workload):
    """What the saga does and how its worker pods run."""

    kafka: Kafka | None = Field(None, description="Needed for triggers.")
    workers: int = Field(10, ge=1, le=1000, description="Concurrent step calls per pod.")
    timeout_seconds: int = Field(
        300, ge=1, le=31_536_000, description="Longest life of an instance before its pivot; then it is compensated."
    )
    step_defaults: StepDefaults = Field(default_factory=lambda: StepDefaults())
    compensation_defaults: CompensationDefaults = Field(default_factory=lambda: CompensationDefaults())
    triggers: list[Trigger] = Field(default_factory=list, max_length=16)
    steps: list[Step] = Field(min_length=1, max_length=64, description="Run in this order; undone in reverse.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "self.steps.all(s, self.steps.exists_one(t, t.name == s.name))",
            "step names must be unique",
            "'step name ' + self.steps.filter(s, !self.steps.exists_one(t, t.name == s.name))[0].name"
            " + ' is used more than once: give each step its own name'",
        ),
        Rule("self.steps.filter(s, s.pivot).size() <= 1", "at most one step may be the pivot"),
        Rule("self.triggers.size() == 0 || has(self.kafka)", "triggers need spec.kafka.bootstrapServers"),
    )

    @model_validator(mode="after")
    def _steps_fit_together(self) -> Self:
        seen: set[str] = set()
        pivot: str | None = None
        for index, step in enumerate(self.steps):
            if step.name in seen:
                raise InvalidDefinition(
                    f"spec.steps[{index}].name", f"{step.name!r} is used more than once", "give each step its own name"
                )
            seen.add(step.name)
            if pivot and step.compensation:
                raise InvalidDefinition(
                    f"spec.steps[{index}].compensation",
                    f"step {step.name!r} has a compensation after the pivot step {pivot!r}",
                    "remove it: a step after the pivot is only retried",
                )
            if step.pivot and pivot:
                raise InvalidDefinition(
                    f"spec.steps[{index}].pivot", f"{pivot!r} is the pivot already", "keep one pivot"
                )
            if step.pivot:
                pivot = step.name
        if self.triggers and not self.kafka:
            raise InvalidDefinition(
                "spec.kafka", "is missing but spec.triggers need it", "set spec.kafka.bootstrapServers"
            )
        return self
