"""What people and programs read of sagas: one instance's status, and the numbers of an orchestrator."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from marty_msf.core.saga.history import CALL
from marty_msf.core.saga.own_data import without
from marty_msf.patterns.saga.compiling import saga_type_of
from marty_msf.worker.saga.surface.showing import Portrait

_FAILURES = frozenset({"failed", "unknown", "refused", "misconfigured"})


@dataclass(frozen=True, slots=True)
class SagaStatus:
    """One saga as it was when it was asked for."""

    saga_id: str
    saga_type: str
    business_key: str
    #: pending, waiting, running, compensating, completed, compensated, failed, cancelled or parked (waits for a person).
    status: str
    #: The step being done or undone, several of a parallel group separated by commas; None between and after.
    current_step: str | None
    #: Calls that failed, of all its steps so far.
    failed_attempts: int
    #: Why it is parked or compensated; else what the last call that failed said.
    last_error: str | None
    #: What it waits for, as a sentence; empty when for nothing, or for a person.
    waits_for: str
    paused: bool
    started_at: datetime
    ended_at: datetime | None
    #: The context as the steps have left it.
    context: Mapping[str, Any]


def status_of(portrait: Portrait, lacking: str) -> SagaStatus:
    """For callers of the library. `lacking` is what the asked process alone knows that it waits for."""
    shown = portrait.shown
    errors = [line.detail for line in portrait.lines if line.event == CALL and line.outcome in _FAILURES]
    return SagaStatus(
        saga_id=str(shown.id),
        saga_type=saga_type_of(shown.definition),
        business_key=shown.business_key.partition("/")[2],
        status=shown.state.lower(),
        current_step=portrait.step or None,
        failed_attempts=len(errors),
        last_error=shown.error or (errors[-1] if errors else None),
        waits_for=lacking or portrait.diagnosis,
        paused=portrait.instance.paused,
        started_at=shown.started_at,
        ended_at=shown.ended_at,
        context=without(portrait.instance.context),
    )


@dataclass(frozen=True, slots=True)
class SagaMetrics(Mapping[str, float]):
    """Numbers of all sagas of an orchestrator's name, as attributes and as a mapping.

    They are read from counters of the database, so all processes of the name tell the same; only `p95_duration_ms` is of
    the sagas that ended in this process since it started.
    """

    total_sagas: int
    completed_sagas: int
    #: Ended without success before anything had happened.
    failed_sagas: int
    #: Everything that had happened was undone.
    compensated_sagas: int
    cancelled_sagas: int
    #: Wait for a person.
    parked_sagas: int
    active_sagas: int
    average_duration_ms: float
    p95_duration_ms: float

    def __getitem__(self, name: str) -> float:
        if name not in self:
            raise KeyError(name)
        value: float = getattr(self, name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in fields(self))
