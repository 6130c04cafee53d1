"""The Saga kind: one resource is one saga type; its executions (instances) live in Postgres, never in etcd."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.code import Runtime
from marty_msf.core.resources.kafka import Kafka
from marty_msf.core.resources.saga_step import CircuitBreaker, Step, check_step
from marty_msf.core.resources.semantic_lock import SemanticLock, check_lock
from marty_msf.core.resources.spec import (
    EventType,
    Expression,
    Model,
    Retry,
    Rule,
    Topic,
    Workload,
    check_waits,
    indexes,
)
from marty_msf.core.resources.step_cache import StepCache

#: A member of the saga's context, written in CEL as `context.<name>`.
CONTEXT_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"

ContextName = Annotated[str, Field(min_length=1, max_length=63, pattern=CONTEXT_NAME)]


class StepDefaults(Model):
    """What a step uses when it says nothing itself."""

    timeout_ms: int = Field(30_000, ge=1, le=3_600_000, description="Longest wait for one call's answer.")
    retry: Retry = Field(
        default_factory=lambda: Retry(), description="Retries of a call whose outcome is unknown or temporary."
    )


class CompensationRetry(Retry):
    """Exponential backoff as for steps, with a larger budget: giving up on an undo costs a person's time."""

    attempts: int = Field(20, ge=1, le=1000, description="Calls made at most, the first one included.")


class CompensationDefaults(Model):
    """How a step is undone."""

    retry: CompensationRetry = Field(
        default_factory=lambda: CompensationRetry(),
        description="Retries of an undo; when they are used up the instance is Parked for a person.",
    )


class KafkaTrigger(Model):
    """Starts one instance for each event of a type. The business key makes redelivered events start nothing new."""

    topic: Topic = Field(description="Kafka topic that is read.")
    event_type: EventType = Field(description="Value of the ce_type header.")
    context: dict[ContextName, Expression] = Field(
        default_factory=dict,
        max_length=64,
        description="Context of the new instance: name to CEL over `event` (the payload). Empty: the whole payload.",
    )
    business_key: Expression | None = Field(
        None, description="CEL over `event`; by default the event's ce_source/ce_id."
    )


class Retention(Model):
    """What is kept of the past."""

    completed_hours: int = Field(
        168,
        ge=1,
        le=876_000,
        description="Hours that an instance which ended can be seen, and its business key stays taken.",
    )


class Trigger(Model):
    """What starts an instance by itself."""

    kafka: KafkaTrigger = Field(description="Starts one instance for each event of a type.")


MAX_STEPS: Final = 64
_EACH: Final = indexes(MAX_STEPS)
#: CEL over the index `i` of a step.
_REPEATED: Final = f"i < size(self.steps) && {_EACH}.exists(j, j < i && self.steps[j].name == self.steps[i].name)"
_PIVOT: Final = "i < size(self.steps) && self.steps[i].pivot"
_UNDONE_AFTER_PIVOT: Final = (
    f"i < size(self.steps) && has(self.steps[i].compensation) && {_EACH}.exists(j, j < i && self.steps[j].pivot)"
)

_FOLLOWS: Final = (
    "i > 0 && has(self.steps[i - 1].parallelGroup) && self.steps[i - 1].parallelGroup == self.steps[i].parallelGroup"
)
_TORN: Final = (
    f"i < size(self.steps) && has(self.steps[i].parallelGroup) && !({_FOLLOWS}) && {_EACH}.exists(j, j < i"
    " && has(self.steps[j].parallelGroup) && self.steps[j].parallelGroup == self.steps[i].parallelGroup)"
)
_ALONE: Final = (
    "i < size(self.steps) && has(self.steps[i].parallelGroup)"
    " && self.steps.exists_one(t, has(t.parallelGroup) && t.parallelGroup == self.steps[i].parallelGroup)"
)


_UNLIKE: Final = (
    "i < size(self.steps) && has(self.steps[i].circuitBreaker) && self.steps.exists(t, has(t.circuitBreaker)"
    " && t.service == self.steps[i].service"
    " && (t.circuitBreaker.failureThreshold != self.steps[i].circuitBreaker.failureThreshold"
    " || t.circuitBreaker.openSeconds != self.steps[i].circuitBreaker.openSeconds))"
)


def _name_of(which: str, nth: int = 0) -> str:
    return f"self.steps[{_EACH}.filter(i, {which})[{nth}]].name"


class SagaSpec(Workload):
    """What the saga does and how its worker pods run."""

    kafka: Kafka | None = Field(None, description="Needed for triggers and for kafka calls.")
    runtime: Runtime | None = Field(None, description="Your own code in the worker pods; needed for python calls.")
    workers: int = Field(10, ge=1, le=1000, description="Concurrent step calls per pod.")
    timeout_seconds: int = Field(
        300, ge=1, le=31_536_000, description="Longest life of an instance before its pivot; then it is compensated."
    )
    stuck_after_seconds: int = Field(
        600,
        ge=1,
        le=31_536_000,
        description="Time without progress after which an instance counts as stuck; it goes on waiting all the same.",
    )
    max_parallel_steps: int = Field(
        5, ge=1, le=MAX_STEPS, description="Steps of one instance's parallelGroup that are called at once."
    )
    step_defaults: StepDefaults = Field(
        default_factory=lambda: StepDefaults(), description="What a step uses when it says nothing itself."
    )
    compensation_defaults: CompensationDefaults = Field(
        default_factory=lambda: CompensationDefaults(), description="How steps are undone."
    )
    semantic_lock: SemanticLock | None = Field(
        None, description="What an instance works on alone, from its first step to its end."
    )
    step_cache: StepCache = Field(
        default_factory=lambda: StepCache(), description="Where results of steps with cache are kept."
    )
    retention: Retention = Field(
        default_factory=lambda: Retention(), description="How long instances are kept after their end."
    )
    triggers: list[Trigger] = Field(
        default_factory=list, max_length=16, description="What starts instances, besides POST /v1/sagas."
    )
    steps: list[Step] = Field(min_length=1, max_length=MAX_STEPS, description="Run in this order; undone in reverse.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "self.steps.all(s, self.steps.exists_one(t, t.name == s.name))",
            "a step name is used more than once: give each step its own name",
            f"""'step name "' + {_name_of(_REPEATED)} + '" is used more than once: give each step its own name'""",
            ".steps",
        ),
        Rule(
            "self.steps.filter(s, s.pivot).size() <= 1",
            "several steps are the pivot: keep pivot: true on one of them",
            f"""'steps "' + {_name_of(_PIVOT)} + '" and "' + {_name_of(_PIVOT, 1)}"""
            """ + '" are both the pivot: keep pivot: true on one of them'""",
            ".steps",
        ),
        Rule(
            f"!{_EACH}.exists(i, {_UNDONE_AFTER_PIVOT})",
            "a step has a compensation after the pivot step: remove it, a step after the pivot is only retried",
            f"""'step "' + {_name_of(_UNDONE_AFTER_PIVOT)} + '" has a compensation after the pivot step "'"""
            f""" + {_name_of(_PIVOT)} + '": remove it, a step after the pivot is only retried'""",
            ".steps",
        ),
        Rule(
            f"!{_EACH}.exists(i, {_TORN})",
            "the steps of a parallelGroup do not stand side by side: put them next to each other, or use two groups",
            f"""'step "' + {_name_of(_TORN)} + '" does not stand beside the other steps of its parallelGroup: """
            """put them next to each other, or use two groups'""",
            ".steps",
        ),
        Rule(
            f"!{_EACH}.exists(i, {_ALONE})",
            "a parallelGroup has one step only: give the steps beside it the same group, or remove it",
            f"""'step "' + {_name_of(_ALONE)} + '" is alone in its parallelGroup: """
            """give the steps beside it the same group, or remove it'""",
            ".steps",
        ),
        Rule(
            f"!{_EACH}.exists(i, {_UNLIKE})",
            "steps of one service have different circuitBreakers, but the service has only one: make them equal",
            f"""'step "' + {_name_of(_UNLIKE)} + '" has another circuitBreaker than a step of the """
            """same service, which has only one: make them equal'""",
            ".steps",
        ),
        Rule(
            "self.triggers.size() == 0 || has(self.kafka)",
            "spec.triggers read Kafka, but spec.kafka is missing: set spec.kafka.bootstrapServers",
            field=".triggers",
        ),
        Rule(
            "has(self.kafka) || !self.steps.exists(s, has(s.call) && has(s.call.kafka))",
            "a step is called over Kafka, but spec.kafka is missing: set spec.kafka.bootstrapServers",
            field=".steps",
        ),
        Rule(
            "!self.steps.exists(s, has(s.call) && has(s.call.kafka)"
            " && (self.triggers.exists(t, t.kafka.topic == s.call.kafka.replyTopic)"
            " || self.steps.exists(t, has(t.call) && has(t.call.kafka)"
            " && t.call.kafka.commandTopic == s.call.kafka.replyTopic)))",
            "a step's replyTopic carries commands or a trigger's events too: use a topic of its own for replies",
            field=".steps",
        ),
        Rule(
            "(has(self.runtime) && has(self.runtime.handlers)) || !self.steps.exists(s, has(s.call) && has(s.call.python))",
            "a step is a Python handler, but spec.runtime.handlers is missing: name the module that registers it",
            field=".steps",
        ),
    )

    @model_validator(mode="after")
    def _code_is_imported(self) -> Self:
        if self.runtime and self.runtime.handlers:
            return self
        if self.runtime and self.runtime.code_config_map_ref:
            raise InvalidDefinition(
                "spec.runtime.codeConfigMapRef", "holds code that nothing imports", "set spec.runtime.handlers"
            )
        for index, step in enumerate(self.steps):
            if step.call and step.call.python:
                raise InvalidDefinition(
                    f"spec.steps[{index}].call.python",
                    "needs spec.runtime.handlers, which is missing",
                    "name the module that registers it",
                )
        return self

    @model_validator(mode="after")
    def _lock_has_a_key(self) -> Self:
        if self.semantic_lock:
            check_lock("spec.semanticLock", self.semantic_lock)
        return self

    @model_validator(mode="after")
    def _waits_ascend(self) -> Self:
        retries: dict[str, Retry] = {
            "spec.stepDefaults.retry": self.step_defaults.retry,
            "spec.compensationDefaults.retry": self.compensation_defaults.retry,
        }
        for path, retry in retries.items():
            check_waits(f"{path}.initialBackoffMs", retry.initial_backoff_ms, retry.max_backoff_ms)
        for index, step in enumerate(self.steps):
            check_step(f"spec.steps[{index}]", step)
        return self

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
                "spec.triggers", "read Kafka, but spec.kafka is missing", "set spec.kafka.bootstrapServers"
            )
        return self

    @model_validator(mode="after")
    def _replies_have_their_topics(self) -> Self:
        calls = {i: step.call.kafka for i, step in enumerate(self.steps) if step.call and step.call.kafka}
        others = {call.command_topic for call in calls.values()} | {trigger.kafka.topic for trigger in self.triggers}
        for index, call in calls.items():
            path = f"spec.steps[{index}].call.kafka"
            if not self.kafka:
                raise InvalidDefinition(path, "needs spec.kafka, which is missing", "set spec.kafka.bootstrapServers")
            if call.reply_topic in others:
                raise InvalidDefinition(
                    f"{path}.replyTopic",
                    f"{call.reply_topic!r} carries commands or a trigger's events too",
                    "use a topic of its own for replies",
                )
        return self

    @model_validator(mode="after")
    def _groups_hold_together(self) -> Self:
        groups = [step.parallel_group for step in self.steps]
        for index, group in enumerate(groups):
            path = f"spec.steps[{index}].parallelGroup"
            if group and group in groups[:index] and groups[index - 1] != group:
                raise InvalidDefinition(
                    path,
                    f"step {self.steps[index].name!r} does not stand beside the other steps of {group!r}",
                    "put them next to each other, or use two groups",
                )
            if group and groups.count(group) == 1:
                raise InvalidDefinition(
                    path,
                    f"step {self.steps[index].name!r} is alone in {group!r}",
                    "give the steps beside it the same group, or remove it",
                )
        return self

    @model_validator(mode="after")
    def _services_have_one_breaker(self) -> Self:
        breakers: dict[str, CircuitBreaker] = {}
        for index, step in enumerate(self.steps):
            if step.circuit_breaker and breakers.setdefault(step.service, step.circuit_breaker) != step.circuit_breaker:
                raise InvalidDefinition(
                    f"spec.steps[{index}].circuitBreaker",
                    f"differs from that of an earlier step of {step.service!r}, which has only one",
                    "make them equal",
                )
        return self
