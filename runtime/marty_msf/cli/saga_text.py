"""An instance's past as text for people."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

import orjson

from marty_msf.cli.tables import duration
from marty_msf.core.saga.history import CALL, IN_FLIGHT, UNKNOWN, Line

#: So many calls in a row that failed alike become one line.
_ALIKE: Final = 3
_OUTCOMES: Final = {
    "succeeded": "done in {}",
    "refused": "refused in {}",
    "failed": "failed in {}",
    "unknown": "failed in {}",
    "misconfigured": "wrongly addressed in {}",
    "in flight": "in flight",
}


def timeline(lines: Sequence[Line], *, every: bool) -> list[tuple[str, str, str, str]]:
    """Rows of time, what it was about, what became of it, details. `every`: no calls are told together."""
    rows: list[tuple[str, str, str, str]] = []
    for alike in _groups(lines, every=every):
        first, last = alike[0], alike[-1]
        rows.append((clock(first.at_ms), _subject(first), *_told(first, last, len(alike))))
    return rows


def clock(at_ms: int) -> str:
    """Time of day in UTC with milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]


def _groups(lines: Sequence[Line], *, every: bool) -> Iterator[list[Line]]:
    for _, group in groupby(lines, key=lambda it: (it.event, it.step, it.undo, it.outcome, it.detail, it.by)):
        alike = list(group)
        failures = alike[0].event == CALL and alike[0].outcome not in {"succeeded", IN_FLIGHT}
        if failures and len(alike) >= _ALIKE and not every:
            yield alike
        else:
            yield from ([it] for it in alike)


def _subject(line: Line) -> str:
    if line.event != CALL:
        return f"{line.event} {line.step}".rstrip()
    return f"{line.step} {'undo' if line.undo else 'do'}"


def _told(first: Line, last: Line, times: int) -> tuple[str, str]:
    """What became of it, and details."""
    if first.event != CALL:
        return (f"by {first.by}" if first.by else ""), first.detail + _result(first)
    lasted = "an unknown time" if first.duration_ms is None else duration(first.duration_ms)
    text = _OUTCOMES[first.outcome].format(lasted)
    if times > 1:
        text = f"failed {times} times until {clock(last.at_ms + (last.duration_ms or 0))}"
    elif first.attempt > 1:
        text += f" (call {first.attempt})"
    doubt = "outcome unknown: " if first.outcome == UNKNOWN else ""
    return text, doubt + first.detail + _result(first)


def _result(line: Line) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else orjson.dumps(value).decode()}"
        for name, value in line.result.items()
    )
