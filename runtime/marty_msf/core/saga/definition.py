"""A saga type compiled for running: defaults resolved, conditions compiled. Its revision names exactly what instances see."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from marty_msf.core.expressions import Expression
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.spec import Retry
from marty_msf.core.retry import RetryPolicy

#: Rises when stored definitions change their form; every older form stays readable as long as instances may pin it.
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One step, with its defaults resolved."""

    name: str
    service: str
    action: str
    compensation: str | None
    condition: Expression | None
    pivot: bool
    data: Mapping[str, Any]
    timeout_ms: int
    retry: RetryPolicy
    #: Adjacent steps with the same group are done at the same time.
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """Instances whose keys give the same text run one after the other."""

    keys: tuple[Expression, ...]
    lease_seconds: int
    #: End as Failed when another instance holds it, instead of waiting.
    reject: bool


@dataclass(frozen=True, slots=True)
class Definition:
    """What an instance follows from its start to its end, whatever happens to the resource meanwhile."""

    revision: str
    steps: tuple[Step, ...]
    timeout_ms: int
    undo_retry: RetryPolicy
    #: What is done one after the other: the indexes of a group's steps, or of a single one.
    stages: tuple[tuple[int, ...], ...]
    max_parallel_steps: int = 1
    lock: Lock | None = None

    def url_path(self, step: int, *, undo: bool) -> str:
        """The path below the step's service that does or undoes it; only steps with a compensation are undone."""
        it = self.steps[step]
        return (it.compensation or "") if undo else it.action


def stored_form(spec: SagaSpec) -> bytes:
    """The definition as canonical JSON: equal for specs whose instances behave equally. Kept in the database."""
    defaults = spec.step_defaults
    return orjson.dumps(
        {
            "format": FORMAT,
            "timeout_ms": spec.timeout_seconds * 1000,
            "undo_retry": asdict(_policy(spec.compensation_defaults.retry)),
            "steps": [
                {
                    "name": step.name,
                    "service": step.service,
                    "action": step.action,
                    "compensation": step.compensation,
                    "condition": step.condition,
                    "pivot": step.pivot,
                    "data": step.data,
                    "timeout_ms": step.timeout_ms or defaults.timeout_ms,
                    "retry": asdict(_policy(step.retry or defaults.retry)),
                }
                for step in spec.steps
            ],
        },
        option=orjson.OPT_SORT_KEYS,
    )


def load(stored: bytes) -> Definition:
    """The inverse of `stored_form`. Raises InvalidDefinition when a condition is no CEL."""
    form = orjson.loads(stored)
    return Definition(
        revision=hashlib.sha256(stored).hexdigest()[:12],
        timeout_ms=form["timeout_ms"],
        undo_retry=RetryPolicy(**form["undo_retry"]),
        steps=tuple(_step(index, step) for index, step in enumerate(form["steps"])),
        stages=tuple((index,) for index, _ in enumerate(form["steps"])),
    )


def _step(index: int, form: dict[str, Any]) -> Step:
    condition = form["condition"]
    return Step(
        name=form["name"],
        service=form["service"],
        action=form["action"],
        compensation=form["compensation"],
        condition=Expression(condition, f"spec.steps[{index}].condition") if condition is not None else None,
        pivot=form["pivot"],
        data=form["data"],
        timeout_ms=form["timeout_ms"],
        retry=RetryPolicy(**form["retry"]),
    )


def _policy(retry: Retry) -> RetryPolicy:
    return RetryPolicy(
        attempts=retry.attempts,
        initial_backoff_ms=retry.initial_backoff_ms,
        multiplier=float(retry.multiplier),
        max_backoff_ms=retry.max_backoff_ms,
        jitter=float(retry.jitter),
    )
