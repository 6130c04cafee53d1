"""A saga type compiled for running: defaults resolved, expressions compiled. Its revision names exactly what instances see."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

import orjson

from marty_msf.core.expressions import Expression
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.saga_step import Call, CircuitBreaker
from marty_msf.core.resources.semantic_lock import SemanticLock, key_sources
from marty_msf.core.resources.spec import Retry
from marty_msf.core.resources.step_cache import CachedResult
from marty_msf.core.retry import RetryPolicy
from marty_msf.core.saga.caching import Cache, identity
from marty_msf.core.saga.calling import (
    DEFAULT_CALL,
    Breaker,
    CallForm,
    HttpCall,
    KafkaCall,
    PythonCall,
    SecretFile,
    SecretHeader,
)
from marty_msf.core.saga.url_template import Template

#: Rises when stored definitions change their form; every older form stays readable as long as instances may pin it.
#: 1: one step after the other, each POST http://<service>/<action>. 2: groups, `call`, circuit breaker.
#: 3: locks, step cache, Kafka calls.
FORMAT: Final = 3


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
    call: CallForm = DEFAULT_CALL
    breaker: Breaker | None = None
    cache: Cache | None = None
    #: Each instance brings data of its own for this step, see own_data.
    own_data: bool = False


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
            "max_parallel_steps": spec.max_parallel_steps,
            "lock": _lock_form(spec.semantic_lock),
            "steps": [
                {
                    "name": step.name,
                    "service": step.service,
                    "action": step.action,
                    "compensation": step.compensation,
                    "condition": step.condition,
                    "group": step.parallel_group,
                    "pivot": step.pivot,
                    "data": step.data,
                    "timeout_ms": step.timeout_ms or defaults.timeout_ms,
                    "retry": asdict(_policy(step.retry or defaults.retry)),
                    "call": _plain(step.call),
                    "breaker": _plain(step.circuit_breaker),
                    "cache": _plain(step.cache),
                }
                for step in spec.steps
            ],
        },
        option=orjson.OPT_SORT_KEYS,
    )


def load(stored: bytes) -> Definition:
    """The inverse of `stored_form`. Raises InvalidDefinition when an expression is no CEL or a URL none."""
    form = orjson.loads(stored)
    steps = tuple(_step(index, step) for index, step in enumerate(form["steps"]))
    return Definition(
        revision=hashlib.sha256(stored).hexdigest()[:12],
        timeout_ms=form["timeout_ms"],
        undo_retry=RetryPolicy(**form["undo_retry"]),
        steps=steps,
        stages=_stages(steps),
        max_parallel_steps=form.get("max_parallel_steps", 1),
        lock=_lock(form.get("lock")),
    )


def _lock_form(lock: SemanticLock | None) -> Mapping[str, Any] | None:
    if lock is None:
        return None
    return {
        "keys": key_sources("spec.semanticLock", lock),
        "lease_seconds": lock.lease_seconds,
        "reject": lock.on_conflict == "Reject",
    }


def _lock(form: Mapping[str, Any] | None) -> Lock | None:
    if form is None:
        return None
    keys = tuple(Expression(source, path) for path, source in form["keys"])
    return Lock(keys, form["lease_seconds"], form["reject"])


def _stages(steps: Sequence[Step]) -> tuple[tuple[int, ...], ...]:
    """Steps without a group are a stage each; the key of a grouped one is never equal to an index."""
    keys = [step.group or index for index, step in enumerate(steps)]
    return tuple(tuple(stage) for _, stage in groupby(range(len(steps)), key=lambda index: keys[index]))


def _step(index: int, form: dict[str, Any]) -> Step:
    path, condition = f"spec.steps[{index}]", form["condition"]
    return Step(
        name=form["name"],
        service=form["service"],
        action=form["action"],
        compensation=form["compensation"],
        condition=Expression(condition, f"{path}.condition") if condition is not None else None,
        pivot=form["pivot"],
        data=form["data"],
        timeout_ms=form["timeout_ms"],
        retry=RetryPolicy(**form["retry"]),
        group=form.get("group"),
        call=_call(form.get("call"), f"{path}.call"),
        breaker=Breaker(**form["breaker"]) if form.get("breaker") else None,
        cache=_cache(form, path),
        own_data=form.get("own_data", False),
    )


def _cache(form: Mapping[str, Any], path: str) -> Cache | None:
    cache = form.get("cache")
    if cache is None:
        return None
    called = [form[name] for name in ("name", "service", "action")]
    key = Expression(cache["key"], f"{path}.cache.key")
    return Cache(cache["ttl_seconds"], key, identity(*called, form.get("call"), cache["key"]))


def _call(form: Mapping[str, Any] | None, path: str) -> CallForm:
    if form is None:
        return DEFAULT_CALL
    if python := form.get("python"):
        return PythonCall(**python)
    if kafka := form.get("kafka"):
        key = kafka.get("key")
        return KafkaCall(
            kafka["command_topic"],
            kafka["reply_topic"],
            Expression(key, f"{path}.kafka.key") if key is not None else None,
        )
    http = form["http"]
    url, undo_url, tls = http.get("url"), http.get("compensation_url"), http.get("tls")
    return HttpCall(
        url=Template(url, f"{path}.http.url") if url else None,
        undo_url=Template(undo_url, f"{path}.http.compensationUrl") if undo_url else None,
        method=http["method"],
        headers=http["headers"],
        secret_headers=tuple(
            SecretHeader(header["name"], SecretFile(**header["secret_ref"])) for header in http["headers_from"]
        ),
        ca=SecretFile(**tls["ca_secret_ref"]) if tls else None,
    )


def _plain(part: Call | CircuitBreaker | CachedResult | None) -> Mapping[str, Any] | None:
    return part.model_dump(mode="json", exclude_none=True) if part else None


def _policy(retry: Retry) -> RetryPolicy:
    return RetryPolicy(
        attempts=retry.attempts,
        initial_backoff_ms=retry.initial_backoff_ms,
        multiplier=float(retry.multiplier),
        max_backoff_ms=retry.max_backoff_ms,
        jitter=float(retry.jitter),
    )
