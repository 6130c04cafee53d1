"""What the schema cannot tell about a spec: every CEL expression and URL in it must compile, and no condition may look ahead.

Used by the operator and by the workers.
"""

import re
from typing import assert_never

from marty_msf.core.errors import ExpressionError, InvalidDefinition
from marty_msf.core.expressions import Expression, check, over_event
from marty_msf.core.projection.mapping import Mapper
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.saga_step import HttpCall
from marty_msf.core.resources.semantic_lock import key_sources
from marty_msf.core.saga.instance import RESERVED
from marty_msf.core.saga.url_template import Template


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
        path = f"spec.steps[{index}]"
        if step.condition is not None:
            _check_condition(spec, index, Expression(step.condition, f"{path}.condition"))
        if step.cache is not None:
            check(step.cache.key, f"{path}.cache.key")
        if step.call is not None and step.call.http is not None:
            _check_urls(step.call.http, f"{path}.call.http")
        if step.call is not None and step.call.kafka is not None and step.call.kafka.key is not None:
            check(step.call.kafka.key, f"{path}.call.kafka.key")
    if spec.semantic_lock is not None:
        for path, source in key_sources("spec.semanticLock", spec.semantic_lock):
            check(source, path)
    for index, trigger in enumerate(spec.triggers):
        path = f"spec.triggers[{index}].kafka"
        for name, source in trigger.kafka.context.items():
            if name == RESERVED:
                raise InvalidDefinition(
                    f"{path}.context.{name}", "is reserved for the whole context", "give the member another name"
                )
            over_event(source, f"{path}.context.{name}")
        if trigger.kafka.business_key is not None:
            over_event(trigger.kafka.business_key, f"{path}.businessKey")


def _check_urls(call: HttpCall, path: str) -> None:
    if call.url is not None:
        Template(call.url, f"{path}.url")
    if call.compensation_url is not None:
        Template(call.compensation_url, f"{path}.compensationUrl")


def _check_condition(spec: SagaSpec, index: int, condition: Expression) -> None:
    """Refuse a condition that names a step whose result cannot be there yet.

    Which members a step's result will have is not declared, so only this can be told: a condition that says the name of
    a later step, or of one in the same parallelGroup, means its result, would never find it, and the step would be
    skipped without a word. A step's own name is taken for a member of the context.
    """
    if not condition.roots:
        try:
            given = condition.value({})
        except ExpressionError as error:
            problem = str(error).removeprefix(f"{condition.path}: ")
            raise InvalidDefinition(condition.path, problem, "let it give true or false") from None
        if not (given is None or isinstance(given, bool)):
            raise InvalidDefinition(
                condition.path,
                f"{condition.source!r} gave {type(given).__name__}, not a boolean",
                "let it give true or false",
            )
    group = spec.steps[index].parallel_group
    for place, other in enumerate(spec.steps):
        beside = group is not None and other.parallel_group == group
        if place == index or (place < index and not beside) or not _names(condition, other.name):
            continue
        raise InvalidDefinition(
            condition.path,
            f"{condition.source!r} names step {other.name!r}, which "
            + ("runs at the same time" if beside else "comes later"),
            "use the result of an earlier step, or rename that step if a member of the context is meant",
        )


def _names(condition: Expression, name: str) -> bool:
    """Whether it reads a member of the context called so, at the root or below `context`."""
    member = rf"""\bcontext\s*(\.\s*{name}\b|\[\s*(['"]){name}\2\s*\])"""
    below = "context" in condition.roots and re.search(member, condition.source)
    return name in condition.roots or bool(below)
