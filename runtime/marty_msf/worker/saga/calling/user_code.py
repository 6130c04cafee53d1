"""The user's module with handlers: imported once, and held against what the definition asks for before work begins."""

from importlib import import_module

from marty_msf.core.errors import HandlersUnusable, InvalidDefinition
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.resources.saga_step import CircuitBreaker
from marty_msf.worker.saga.calling.handlers import Handlers


def load(spec: SagaSpec) -> Handlers:
    """The handlers of `spec.runtime.handlers`, none without it. Runs the user's code.

    Raises HandlersUnusable when the module cannot be imported, or lacks a handler that a step names.
    """
    handlers = Handlers()
    name = spec.runtime.handlers if spec.runtime else None
    if name is None:
        return handlers
    try:
        handlers.collect(import_module(name))
    except InvalidDefinition as error:
        raise HandlersUnusable(f"spec.runtime.handlers: {error}") from error
    except (Exception, SystemExit) as error:
        raise HandlersUnusable(
            f"spec.runtime.handlers: module {name!r} cannot be imported ({type(error).__name__}: {error}):"
            " correct its code, or the image or ConfigMap that holds it"
        ) from error
    for index, step in enumerate(spec.steps):
        if step.call is None or step.call.python is None:
            continue
        handler = step.call.python.handler
        for undo in (False, True) if step.compensation else (False,):
            if not handlers.has(handler, undo=undo):
                mark = "saga_compensation" if undo else "saga_step"
                raise HandlersUnusable(
                    f"spec.steps[{index}].call.python.handler: module {name!r} has no function marked with"
                    f" @{mark}({handler!r}): add it or correct the name"
                )
        if handlers.cache(handler) is not None and (step.compensation or step.pivot):
            raise HandlersUnusable(
                f"spec.steps[{index}]: @cached_saga_step is on the function of {handler!r}, but the step has"
                f" {'a compensation' if step.compensation else 'no way back'}: what it does has to be done each time"
            )
    return handlers


def guarded(spec: SagaSpec, handlers: Handlers) -> SagaSpec:
    """The spec with the circuit breakers that its functions are marked with; where it says one itself, that counts.

    Raises HandlersUnusable when they do not fit together.
    """
    steps = []
    try:
        for step in spec.steps:
            python = step.call.python if step.call else None
            mark = handlers.breaker(python.handler) if python and step.circuit_breaker is None else None
            if mark is not None:
                breaker = CircuitBreaker(failure_threshold=mark.failure_threshold, open_seconds=mark.open_seconds)
                step = step.model_copy(update={"circuit_breaker": breaker})
            steps.append(step)
        if steps == spec.steps:
            return spec
        return SagaSpec.model_validate({**spec.model_dump(by_alias=True, exclude_none=True), "steps": steps})
    except InvalidDefinition as error:
        raise HandlersUnusable(f"@circuit_breaker in {spec.runtime and spec.runtime.handlers}: {error}") from error
