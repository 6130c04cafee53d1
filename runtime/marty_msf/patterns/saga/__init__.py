"""Steps of sagas as functions of your own, run by the worker pods of a Saga resource; see docs/how-to/saga.md."""

from marty_msf.worker.saga.handlers import StepContext, StepHandler, saga_compensation, saga_step
from marty_msf.worker.saga.python_caller import StepRejected

__all__ = ["StepContext", "StepHandler", "StepRejected", "saga_compensation", "saga_step"]
