"""Definitions for the tests, written the way users write specs."""

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


def definition(*steps: dict[str, Any], timeout_seconds: int = 300) -> Definition:
    return load(stored_form(spec(*steps, timeout_seconds=timeout_seconds)))


ORDER = definition(
    {"name": "reserve", "compensation": "release"},
    {"name": "charge", "compensation": "refund", "pivot": True},
    {"name": "confirm"},
)
