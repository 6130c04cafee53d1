"""Which instances a person means: filters as they are written on a command line or in a URL, and what they stand for."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.identity import uuid7
from marty_msf.core.saga.instance import LIVE, State
from marty_msf.core.user_values import keepable

#: States of instances that are in work or wait for somebody: only these have a step.
OPEN: Final = LIVE | {State.PARKED}
_STATES: Final = {state.value.lower(): state for state in State}
_AGE: Final = re.compile(r"(\d{1,9})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LAST_MS: Final = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class Selection:
    """Filters that all have to hold; None stands for anything."""

    states: tuple[str, ...] | None = None
    #: Is doing or undoing this step.
    step: str | None = None
    #: Ids sort by the time of the start: from this one on, and below that one.
    from_id: UUID | None = None
    below_id: UUID | None = None
    #: LIKE pattern.
    key: str | None = None
    #: Part of the error, in any case.
    error: str | None = None
    #: Follows this revision of the definition.
    revision: str | None = None
    #: Live, and without progress for longer than its Saga allows.
    stuck: bool = False


def selection(
    *,
    state: str | None = None,
    step: str | None = None,
    since: str | None = None,
    before: str | None = None,
    key: str | None = None,
    error: str | None = None,
    revision: str | None = None,
    stuck: bool = False,
    now_ms: int,
) -> Selection:
    """Read filters.

    `state` has names separated by commas; `since` and `before` bound the start by an age (90s, 30m, 2h, 3d) or an ISO
    time; in `key` a `*` stands for anything. Raises InvalidDefinition.
    """
    states = None if state is None else states_named(state)
    if states is None and (step is not None or stuck):
        states = tuple(sorted(it.value for it in (LIVE if stuck else OPEN)))
    return Selection(
        states,
        sought("step", step),
        _id_at("since", since, now_ms),
        _id_at("before", before, now_ms),
        _pattern(sought("key", key)),
        sought("error", error),
        sought("revision", revision),
        stuck,
    )


def sought(path: str, text: str | None) -> str | None:
    """A text to look for in the database. Raises InvalidDefinition for what can be nowhere, because it cannot be kept."""
    if text is not None and not keepable(text):
        raise InvalidDefinition(path, f"{text!r} has a NUL or a lone surrogate, which nothing has", "correct it")
    return text


def moment_ms(path: str, text: str, now_ms: int) -> int:
    """The time of an age (90s, 30m, 2h, 3d) or an ISO time, in milliseconds since 1970. Raises InvalidDefinition."""
    if match := _AGE.fullmatch(text):
        return now_ms - int(match[1]) * _SECONDS[match[2]] * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidDefinition(
            path, f"{text!r} is neither an age nor a time", "give 90s, 30m, 2h, 3d or 2026-01-31T12:00Z"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def first_id(moment: int) -> UUID:
    """Not above the id of any instance started at this time (milliseconds since 1970) or later."""
    return UUID(bytes=uuid7(min(max(moment, 0), _LAST_MS), 0))


def states_named(text: str) -> tuple[str, ...]:
    """The states of a list with commas, in any case. Raises InvalidDefinition."""
    chosen = []
    for part in text.split(","):
        name = part.strip().lower()
        if name not in _STATES:
            raise InvalidDefinition("state", f"{part.strip()!r} is none", f"give some of {', '.join(_STATES)}")
        chosen.append(_STATES[name].value)
    return tuple(chosen)


def _id_at(path: str, text: str | None, now_ms: int) -> UUID | None:
    return None if text is None else first_id(moment_ms(path, text, now_ms))


def _pattern(text: str | None) -> str | None:
    """LIKE pattern of a key with stars."""
    if text is None:
        return None
    for character in "\\%_":
        text = text.replace(character, f"\\{character}")
    return text.replace("*", "%")
