"""What can happen to a saga instance. The journal keeps exactly these; everything else is computed from them.

The tag and the order of the fields of each event are the journal's format: they never change, new fields go to the end
with a default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final


@dataclass(frozen=True, slots=True)
class Started:
    """The instance was taken up; `deadline_ms` ends its life before the pivot (milliseconds since 1970)."""

    TAG: ClassVar[str] = "start"
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The call in flight succeeded; the result's members go into the context."""

    TAG: ClassVar[str] = "ok"
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unusable:
    """The call in flight succeeded, but its answer cannot be kept (too large, or a reserved name)."""

    TAG: ClassVar[str] = "unusable"
    error: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The service refused for a business reason: nothing happened there."""

    TAG: ClassVar[str] = "rejected"
    error: str
    #: For the spread of a wait, in [0, 1): used where a refusal is retried (undo, and steps after the pivot).
    random: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The call in flight failed for a time. `unknown`: it may have had its effect (time-out, 5xx, a lost answer)."""

    TAG: ClassVar[str] = "failed"
    error: str
    unknown: bool
    random: float
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The service does not know the call or us (3xx, 401, 403, 404, 405): a person has to mend something."""

    TAG: ClassVar[str] = "misconfigured"
    error: str


@dataclass(frozen=True, slots=True)
class Due:
    """The wait is over."""

    TAG: ClassVar[str] = "due"


@dataclass(frozen=True, slots=True)
class Resumed:
    """A new owner found the call in flight: whether the former one made it, and how it ended, is unknown."""

    TAG: ClassVar[str] = "resumed"


@dataclass(frozen=True, slots=True)
class Restarted:
    """As Resumed, but the former owner was this same process, which lives: no sign that the call kills workers."""

    TAG: ClassVar[str] = "restarted"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The owner stops before it made the call in flight."""

    TAG: ClassVar[str] = "withdrawn"


@dataclass(frozen=True, slots=True)
class Broken:
    """What came next could not be computed or kept, through a fault of ours: a person has to look."""

    TAG: ClassVar[str] = "broken"
    error: str


Event = (
    Started | Succeeded | Unusable | Rejected | Failed | Misconfigured | Due | Resumed | Restarted | Withdrawn | Broken
)

_TYPES: Final[Mapping[str, type[Event]]] = {
    kind.TAG: kind
    for kind in (
        Started,
        Succeeded,
        Unusable,
        Rejected,
        Failed,
        Misconfigured,
        Due,
        Resumed,
        Restarted,
        Withdrawn,
        Broken,
    )
}
_FIELDS: Final[Mapping[type[Event], Sequence[str]]] = {kind: kind.__slots__ for kind in _TYPES.values()}


def to_list(event: Event) -> list[Any]:
    """The event as the journal keeps it: its tag and its fields."""
    kind = type(event)
    return [kind.TAG, *(getattr(event, name) for name in _FIELDS[kind])]


def from_list(form: Sequence[Any]) -> Event:
    """The inverse of `to_list`."""
    return _TYPES[form[0]](*form[1:])
