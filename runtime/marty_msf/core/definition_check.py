"""What the schema cannot tell about a spec: every CEL expression in it must compile. Used by the operator and by the workers."""

from typing import assert_never

from marty_msf.core.expressions import check
from marty_msf.core.projection.mapping import Mapper
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.resources.saga import SagaSpec


def check_expressions(spec: SagaSpec | OutboxRelaySpec | ProjectionSpec) -> None:
    """Raise InvalidDefinition, naming the path, for the first expression that is no CEL."""
    match spec:
        case SagaSpec():
            _check_saga(spec)
        case ProjectionSpec():
            Mapper(spec)
        case OutboxRelaySpec():
            return
        case _:
            assert_never(spec)


def _check_saga(spec: SagaSpec) -> None:
    for index, step in enumerate(spec.steps):
        if step.condition is not None:
            check(step.condition, f"spec.steps[{index}].condition")
    for index, trigger in enumerate(spec.triggers):
        path = f"spec.triggers[{index}].kafka"
        for name, source in trigger.kafka.context.items():
            check(source, f"{path}.context.{name}")
        if trigger.kafka.business_key is not None:
            check(trigger.kafka.business_key, f"{path}.businessKey")
