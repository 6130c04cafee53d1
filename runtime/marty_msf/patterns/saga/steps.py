"""The steps of a start as callers write them: mappings in either of two forms, checked and brought into one. Pure.

The long form names everything; the short one (`{"step": …, "compensation": …}`) takes every further member for data.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.instance import NESTING_LIMIT, START_LIMIT_BYTES, members_problem
from marty_msf.core.saga.own_data import OWN_DATA
from marty_msf.core.user_values import as_json, keepable
from marty_msf.patterns.saga import arguments

_OPTIONS: Final = (
    *("service_name", "action", "compensation_action", "data", "parallel_group", "condition", "timeout_ms"),
    *("retry_attempts", "pivot"),
)
LONG: Final = frozenset(("step_name", *_OPTIONS))
#: What is left of a context's levels below the context, all data and the step's name.
_DATA_LEVELS: Final = NESTING_LIMIT - 2
SHORT: Final = frozenset(("step", "compensation", *_OPTIONS))


@dataclass(frozen=True, slots=True)
class StepForm:
    """One step of a start. Only its kinds of values are checked here; what they mean, where the definition is made."""

    name: str
    service: str | None = None
    action: str | None = None
    compensation: str | None = None
    parallel_group: str | None = None
    condition: str | None = None
    timeout_ms: int | None = None
    retry_attempts: int | None = None
    pivot: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    short: bool = False


def likeness(forms: Sequence[StepForm]) -> str:
    """The same for steps that differ in their data only, wherever and however they are run."""
    plain = [{name: value for name, value in asdict(form).items() if name not in ("data", "short")} for form in forms]
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def read_steps(steps: Sequence[Mapping[str, Any]]) -> Sequence[StepForm]:
    """Raises InvalidDefinition that names the path, as in `steps[0].timeout_ms`."""
    if isinstance(steps, str | bytes | Mapping) or not isinstance(steps, Sequence):
        raise InvalidDefinition("steps", f"is a {type(steps).__name__}", "give a list of steps")
    if not steps:
        raise InvalidDefinition("steps", "is empty", "give one step at least")
    return [_read(f"steps[{index}]", step) for index, step in enumerate(steps)]


def _read(path: str, step: Mapping[str, Any]) -> StepForm:
    if not isinstance(step, Mapping):
        raise InvalidDefinition(path, f"is a {type(step).__name__}", 'give a mapping such as {"step_name": "charge"}')
    short = "step" in step
    if short and "step_name" in step:
        raise InvalidDefinition(path, "has step and step_name", "give one of them")
    name = _text(path, step, "step" if short else "step_name")
    if name is None:
        raise InvalidDefinition(f"{path}.step_name", "is missing", "name the step")
    # First of all: what else is wrong with the step may well come from a name that no step can have.
    arguments.step_name(name, f"{path}.{'step' if short else 'step_name'}")
    if short and step.get("compensation") is not None and step.get("compensation_action") is not None:
        raise InvalidDefinition(path, "has compensation and compensation_action", "give one of them")
    known = SHORT if short else LONG
    further = {member: value for member, value in step.items() if member not in known}
    if further and not short:
        unknown = sorted(map(str, further))[0]
        raise InvalidDefinition(
            f"{path}.{unknown}", "is no member of a step", f"put it into data, or correct it: {', '.join(sorted(LONG))}"
        )
    return StepForm(
        name=name,
        service=_text(path, step, "service_name"),
        action=_text(path, step, "action"),
        compensation=_text(path, step, "compensation_action") or (_text(path, step, "compensation") if short else None),
        parallel_group=_text(path, step, "parallel_group"),
        condition=_text(path, step, "condition"),
        timeout_ms=_number(path, step, "timeout_ms"),
        retry_attempts=_number(path, step, "retry_attempts"),
        pivot=_flag(path, step, "pivot"),
        data=_data(path, name, step.get("data"), further),
        short=short,
    )


def _text(path: str, step: Mapping[str, Any], member: str) -> str | None:
    value = step.get(member)
    if value is not None and not (isinstance(value, str) and value):
        raise InvalidDefinition(f"{path}.{member}", f"{value!r} is no text", "give a name, or leave it out")
    if value is not None and not keepable(value):
        raise InvalidDefinition(f"{path}.{member}", f"{value!r} has a NUL or a lone surrogate", "correct it")
    return value


def _number(path: str, step: Mapping[str, Any], member: str) -> int | None:
    value = step.get(member)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InvalidDefinition(f"{path}.{member}", f"{value!r} is no whole number", "give one, or leave it out")


def _flag(path: str, step: Mapping[str, Any], member: str) -> bool:
    value = step.get(member, False)
    if isinstance(value, bool):
        return value
    raise InvalidDefinition(f"{path}.{member}", f"{value!r} is neither True nor False", "correct it")


def _data(path: str, name: str, data: object, further: Mapping[str, Any]) -> Mapping[str, Any]:
    """The step's data as plain JSON values."""
    if data is not None and not isinstance(data, Mapping):
        raise InvalidDefinition(f"{path}.data", f"is a {type(data).__name__}", "give a mapping")
    both = {**(data or {}), **further}
    if not both:
        return both
    try:
        # As the context will hold it: told here, it is told of the step that it belongs to.
        encoded = as_json({OWN_DATA: {name: both}})
    except TypeError as error:
        remedy = f"give JSON values nested at most {NESTING_LIMIT} levels"
        raise InvalidDefinition(f"{path}.data", f"is no JSON ({error})", remedy) from None
    if len(encoded) > START_LIMIT_BYTES:
        problem = f"has {len(encoded)} bytes, {START_LIMIT_BYTES} are allowed with the context and all steps' data"
        raise InvalidDefinition(f"{path}.data", problem, "keep identifiers in it, not data")
    members = orjson.loads(encoded)
    if members_problem(members):
        raise InvalidDefinition(
            f"{path}.data", f"is nested over {_DATA_LEVELS} levels deep", "keep identifiers in it, not data"
        )
    plain: Mapping[str, Any] = members[OWN_DATA][name]
    return plain
