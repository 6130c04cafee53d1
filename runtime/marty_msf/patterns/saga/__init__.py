"""Sagas in Python: run by your own process (docs/how-to/saga-library.md), or as functions of a Saga's pods (saga.md)."""

from marty_msf.core.errors import BusinessKeyTaken, UnknownSaga
from marty_msf.patterns.saga.commands import StepCommand, StepCommands
from marty_msf.patterns.saga.guard import GuardedStep, StepTooLate, forget_steps, step_guard
from marty_msf.patterns.saga.orchestrator import SagaOrchestrator
from marty_msf.patterns.saga.status import SagaMetrics, SagaStatus
from marty_msf.worker.saga.calling.cache_mark import cached_saga_step
from marty_msf.worker.saga.calling.circuit_mark import circuit_breaker
from marty_msf.worker.saga.calling.handlers import StepContext, StepHandler, saga_compensation, saga_step
from marty_msf.worker.saga.calling.python_caller import StepRejected

__all__ = [
    "BusinessKeyTaken",
    "GuardedStep",
    "SagaMetrics",
    "SagaOrchestrator",
    "SagaStatus",
    "StepCommand",
    "StepCommands",
    "StepContext",
    "StepHandler",
    "StepRejected",
    "StepTooLate",
    "UnknownSaga",
    "cached_saga_step",
    "circuit_breaker",
    "forget_steps",
    "saga_compensation",
    "saga_step",
    "step_guard",
]
