"""From the steps of a start to the definition that its instance follows.

It is made of the same spec as a Saga resource, so both mean the same. What differs from start to start, the steps' data,
is no part of it: a million starts with the same steps follow one definition. No I/O.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic import ValidationError

from marty_msf.core.definition_check import check_expressions
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.definition import Definition, load, stored_form
from marty_msf.patterns.saga.steps import StepForm, likeness
from marty_msf.worker.saga.calling.handlers import Handlers

#: Definitions kept compiled.
KEPT: Final = 256
SAGA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
#: Of spec fields, the names that a start uses for them.
_NAMES: Final[Mapping[str, str]] = {
    "name": "step_name",
    "service": "service_name",
    "compensation": "compensation_action",
    "parallelGroup": "parallel_group",
    "retry": "retry_attempts",
    "timeoutMs": "timeout_ms",
}
_SHORT_NAMES: Final[Mapping[str, str]] = {**_NAMES, "name": "step", "compensation": "compensation"}
_OF_STEP: Final = re.compile(r"spec\.steps\[(\d+)\](?:\.(\w+))?")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A definition, and the bytes that it is kept as."""

    definition: Definition
    stored: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all sagas of an orchestrator have in common. Part of their definitions."""

    timeout_seconds: int = 300
    step_timeout_ms: int = 30_000
    max_parallel_steps: int = 5

    def spec(self, steps: Sequence[Mapping[str, Any]]) -> SagaSpec:
        """As a Saga resource would say it. Raises InvalidDefinition and ValidationError."""
        return SagaSpec.model_validate(
            {
                # A spec needs them; a definition does not have them.
                "database": {"urlSecretRef": {"name": "none"}},
                "runtime": {"handlers": "none"},
                "timeoutSeconds": self.timeout_seconds,
                "maxParallelSteps": self.max_parallel_steps,
                "stepDefaults": {"timeoutMs": self.step_timeout_ms},
                "steps": steps,
            }
        )

    def check(self) -> None:
        """Raises InvalidDefinition."""
        try:
            self.spec([{"name": "any", "service": "any", "action": "any"}])
        except ValidationError as error:
            found = error.errors()[0]
            name = {"maxParallelSteps": "max_parallel_steps", "timeoutSeconds": "timeout_seconds"}.get(
                str(found["loc"][0]), "step_timeout_ms"
            )
            raise InvalidDefinition(name, f"{found['input']!r}: {found['msg']}", "correct it") from None


class Compiler:
    """Compiles once what is started again and again."""

    def __init__(self, handlers: Handlers, bounds: Bounds) -> None:
        """Raises InvalidDefinition."""
        bounds.check()
        self._handlers = handlers
        self._bounds = bounds
        self._kept: OrderedDict[bytes, Compiled] = OrderedDict()

    def compile(self, saga_type: str, forms: Sequence[StepForm]) -> Compiled:
        """Raises InvalidDefinition that names the step and the member."""
        if not isinstance(saga_type, str) or not SAGA_TYPE.fullmatch(saga_type):
            raise InvalidDefinition(
                "saga_type", f"{saga_type!r} is no name", "use letters, digits, '.', '_' and '-', at most 100"
            )
        steps = [self._step(f"steps[{index}]", form) for index, form in enumerate(forms)]
        _leave_undone_behind_pivot(forms, steps)
        # The same steps may be written in several ways, of which each is kept as it was asked for.
        key = orjson.dumps([saga_type, steps, [[form.service, form.action, form.compensation] for form in forms]])
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        compiled = self._kept[key] = self._compile(saga_type, forms, steps)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return compiled

    def _step(self, path: str, form: StepForm) -> dict[str, Any]:
        """As a step of a spec."""
        step: dict[str, Any] = {"name": form.name, "pivot": form.pivot}
        if self._handlers.has(form.name, undo=False):
            step |= self._local(path, form)
        elif form.service is not None:
            # Names of Kubernetes Services, and of hosts, have no underscores.
            step |= {"service": form.service.replace("_", "-"), "action": form.action or form.name}
            if form.compensation is not None:
                step["compensation"] = form.compensation
        else:
            raise InvalidDefinition(
                f"{path}.{'step' if form.short else 'step_name'}",
                f"{form.name!r} has no service_name, and this process has no handler for it",
                f"register_step_handler({form.name!r}, …) before the start, correct the name, or give service_name",
            )
        if form.parallel_group is not None:
            step["parallelGroup"] = form.parallel_group
        if form.condition is not None:
            step["condition"] = form.condition
        if form.timeout_ms is not None:
            step["timeoutMs"] = form.timeout_ms
        if form.retry_attempts is not None:
            step["retry"] = {"attempts": form.retry_attempts}
        return step

    def _local(self, path: str, form: StepForm) -> dict[str, Any]:
        """A step whose handler is registered here: each process waits for its own one and calls nobody else."""
        undone = undo_name(self._handlers, form.name, form.compensation)
        if form.compensation is not None and undone is None:
            raise InvalidDefinition(
                f"{path}.{'compensation' if form.short else 'compensation_action'}",
                f"step {form.name!r} has a handler, but its compensation has none",
                f"register_compensation_handler({form.name!r}, …) before the start",
            )
        step: dict[str, Any] = {
            "service": "handler",
            "action": form.action or form.name,
            "call": {"python": {"handler": form.name}},
        }
        if undone is not None:
            step["compensation"] = form.compensation or undone
        if breaker := self._handlers.breaker(form.name):
            step["circuitBreaker"] = {
                "failureThreshold": breaker.failure_threshold,
                "openSeconds": breaker.open_seconds,
            }
        return step

    def _compile(self, saga_type: str, forms: Sequence[StepForm], steps: Sequence[Mapping[str, Any]]) -> Compiled:
        # Breakers are a service's: each handler has its own.
        named = [
            {**step, "service": f"handler-{index}"} if "call" in step else step for index, step in enumerate(steps)
        ]
        try:
            spec = self._bounds.spec(named)
            check_expressions(spec)
        except ValidationError as error:
            found = error.errors()[0]
            place = "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"])
            raise _translated(place, f"{found['input']!r}"[:200] + f": {found['msg']}", "correct it", forms) from None
        except InvalidDefinition as error:
            raise _translated(error.path, error.problem, error.remedy, forms) from None
        form = orjson.loads(stored_form(spec))
        form["saga_type"] = saga_type
        form["asked"] = likeness(forms)
        for step in form["steps"]:
            step["own_data"] = True
            if step["call"] and "python" in step["call"]:
                step["service"] = step["name"]
        stored = orjson.dumps(form, option=orjson.OPT_SORT_KEYS)
        return Compiled(load(stored), stored)


def _leave_undone_behind_pivot(forms: Sequence[StepForm], steps: Sequence[dict[str, Any]]) -> None:
    """A handler that could undo a step does not make it one to be undone where nothing is."""
    beyond = False
    for form, step in zip(forms, steps, strict=True):
        if beyond and form.compensation is None:
            step.pop("compensation", None)
        beyond = beyond or form.pivot


def undo_name(handlers: Handlers, step: str, compensation: str | None) -> str | None:
    """Under which name the compensation handler of a step is registered: the step's, or that of the compensation."""
    names = (step,) if compensation is None else (step, compensation)
    return next((name for name in names if handlers.has(name, undo=True)), None)


def asks_the_same(one: bytes, other: bytes) -> bool:
    """Whether two kept definitions come from the same steps. They may differ in what this process and that one could do
    by handlers, and in the bounds of their orchestrators.
    """
    first, second = ((form["saga_type"], form["asked"]) for form in (orjson.loads(one), orjson.loads(other)))
    return bool(first == second)


def saga_type_of(stored: bytes) -> str:
    """The saga type that a kept definition was made for."""
    found: str = orjson.loads(stored).get("saga_type", "")
    return found


def _translated(path: str, problem: str, remedy: str, forms: Sequence[StepForm]) -> InvalidDefinition:
    """The same error in the words of a start."""
    if found := _OF_STEP.match(path):
        index, member = int(found[1]), found[2]
        names = _SHORT_NAMES if index < len(forms) and forms[index].short else _NAMES
        path = f"steps[{index}].{names.get(member, member)}" if member else f"steps[{index}]"
    else:
        path = path.removeprefix("spec.")
    return InvalidDefinition(path, problem, remedy.replace("parallelGroup", "parallel_group"))
