"""From a Kafka event to a new instance: which trigger it matches, its business key and its context. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from marty_msf.core.cloudevents import Envelope
from marty_msf.core.errors import ExpressionError, PoisonEvent
from marty_msf.core.expressions import Expression
from marty_msf.core.resources.saga import KafkaTrigger, SagaSpec


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger with its expressions compiled."""

    topic: str
    event_type: str
    #: Empty: the whole payload becomes the context.
    context: Mapping[str, Expression]
    business_key: Expression | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An instance that an event asks for."""

    business_key: str
    context: Mapping[str, Any]


def compiled(spec: SagaSpec) -> Sequence[Trigger]:
    """The spec's triggers. Raises InvalidDefinition for an expression that is no CEL."""
    return [_compiled(index, trigger.kafka) for index, trigger in enumerate(spec.triggers)]


def wanted(triggers: Sequence[Trigger], topic: str, envelope: Envelope, payload: bytes | None) -> Sequence[Wanted]:
    """What an event starts, one for each trigger it matches; nothing for most events.

    Raises PoisonEvent when it matches but its payload cannot be used.
    """
    matching = [trigger for trigger in triggers if trigger.topic == topic and trigger.event_type == envelope.type]
    if not matching:
        return ()
    try:
        event = orjson.loads(payload or b"")
    except orjson.JSONDecodeError as error:
        raise PoisonEvent(f"the payload is no JSON ({error}): let the producer send JSON") from None
    if not isinstance(event, dict):
        raise PoisonEvent(f"the payload is a {type(event).__name__}, not an object: let the producer send an object")
    return [_wanted(trigger, envelope, event) for trigger in matching]


def _wanted(trigger: Trigger, envelope: Envelope, event: Mapping[str, Any]) -> Wanted:
    variables = {"event": event}
    try:
        context = {name: expression.value(variables) for name, expression in trigger.context.items()} or event
        key = trigger.business_key.value(variables) if trigger.business_key else None
    except ExpressionError as error:
        raise PoisonEvent(str(error)) from None
    if trigger.business_key:
        if key is None or isinstance(key, bool | dict | list | float):
            raise PoisonEvent(
                f"{trigger.business_key.path}: {trigger.business_key.source!r} gave {key!r}: let it give text or an integer"
            )
        return Wanted(str(key), context)
    if not envelope.id:
        raise PoisonEvent("the event has no ce_id header and the trigger no businessKey: give one of them")
    return Wanted(f"{envelope.source}/{envelope.id}", context)


def _compiled(index: int, trigger: KafkaTrigger) -> Trigger:
    path = f"spec.triggers[{index}].kafka"
    return Trigger(
        trigger.topic,
        trigger.event_type,
        {name: Expression(source, f"{path}.context.{name}") for name, source in trigger.context.items()},
        Expression(trigger.business_key, f"{path}.businessKey") if trigger.business_key is not None else None,
    )
