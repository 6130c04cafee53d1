"""Which ended instances a person means: for archives, and for removal before the retention takes them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.instance import LIVE, State
from marty_msf.core.saga.selection import moment_ms, states_named

#: Final states, as texts: an instance in one of these never changes again.
ENDED: Final = tuple(sorted(state.value for state in State if state not in LIVE and state is not State.PARKED))
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: An id from before is none of ours.
_PAST_MS: Final = 50 * 366 * 86_400_000
_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Ended:
    """Final states, and when the end was: from `since` on, before `before`."""

    states: tuple[str, ...] = ENDED
    since: datetime = _FIRST
    before: datetime = _LAST


def ended(*, state: str | None = None, since: str | None = None, before: str | None = None, now_ms: int) -> Ended:
    """Read filters: states separated by commas, ages (90s, 30m, 2h, 3d) or ISO times of the end.

    Raises InvalidDefinition, also for a state that is no end.
    """
    states = ENDED if state is None else states_named(state)
    if open_ones := [it for it in states if it not in ENDED]:
        raise InvalidDefinition(
            "state", f"{', '.join(open_ones)}: such instances have not ended", f"give some of {', '.join(ENDED)}"
        )
    return Ended(states, _moment("since", since, now_ms, _FIRST), _moment("before", before, now_ms, _LAST))


def _moment(path: str, text: str | None, now_ms: int, default: datetime) -> datetime:
    if text is None:
        return default
    try:
        return datetime.fromtimestamp(moment_ms(path, text, now_ms) / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        raise InvalidDefinition(path, f"{text!r} is out of range", "give a time since 1970") from None


def gone(instance: UUID, hours: int | None, now_ms: int) -> str:
    """What to say of an id that names no instance, when the retention may be why; empty when it cannot be.

    `hours` is how long the saga keeps ended instances, None for ever.
    """
    started_ms = instance.int >> 80
    if hours is None or not 0 <= now_ms - started_ms <= _PAST_MS or now_ms - started_ms < hours * 3_600_000:
        return ""
    started = datetime.fromtimestamp(started_ms / 1000, UTC)
    return (
        f"the id is of {started:%Y-%m-%d %H:%M} UTC, and instances that ended are removed after {hours} h "
        "(spec.retention.completedHours): if it was one it is gone, look into the archive"
    )
