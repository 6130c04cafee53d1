"""Definitions for the tests, written the way users write specs."""

from dataclasses import replace
from itertools import groupby
from typing import Any

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.definition import Definition, load, stored_form

RETRY = {"attempts": 2, "initialBackoffMs": 100, "jitter": 0, "maxBackoffMs": 1000}


def spec(*steps: dict[str, Any], timeout_seconds: int = 300, **fields: Any) -> SagaSpec:
    return SagaSpec.model_validate(
        {
            "database": {"urlSecretRef": {"name": "db"}},
            "timeoutSeconds": timeout_seconds,
            "stepDefaults": {"timeoutMs": 1000, "retry": RETRY},
            "compensationDefaults": {"retry": RETRY},
            "steps": [{"service": f"{step['name']}-service", "action": "do", **step} for step in steps],
            **fields,
        }
    )


def definition(*steps: dict[str, Any], timeout_seconds: int = 300, max_parallel_steps: int = 5) -> Definition:
    """Steps may have a `group`, also one of a single step."""
    plain = [{name: value for name, value in step.items() if name != "group"} for step in steps]
    made = load(stored_form(spec(*plain, timeout_seconds=timeout_seconds)))
    groups = [step.get("group") for step in steps]
    members = groupby(range(len(steps)), key=lambda index: groups[index] or index)
    return replace(
        made,
        steps=tuple(replace(step, group=group) for step, group in zip(made.steps, groups, strict=True)),
        stages=tuple(tuple(stage) for _, stage in members),
        max_parallel_steps=max_parallel_steps,
    )


ORDER = definition(
    {"name": "reserve", "compensation": "release"},
    {"name": "charge", "compensation": "refund", "pivot": True},
    {"name": "confirm"},
)
