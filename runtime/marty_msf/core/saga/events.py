"""What can happen to a saga instance. The journal keeps exactly these; everything else is computed from them.

The tag and the order of the fields of each event are the journal's format: they never change, new fields go to the end
with a default. `step` says whose call or wait it is about; None stands for the only one there is. `by` is the
person who asked for a verb, `verb` the number of the request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Final, TypeAlias, get_args

from marty_msf.core.value import value


@value
class Started:
    """The instance was taken up; `deadline_ms` ends its life before the pivot (milliseconds since 1970)."""

    TAG: ClassVar[str] = "start"
    deadline_ms: int


@value
class Succeeded:
    """The call in flight succeeded; the result's members go into the context."""

    TAG: ClassVar[str] = "ok"
    result: Mapping[str, Any]
    step: int | None = None


@value
class Unusable:
    """The call in flight succeeded, but its answer cannot be kept (too large, or a reserved name)."""

    TAG: ClassVar[str] = "unusable"
    error: str
    step: int | None = None


@value
class Rejected:
    """The service refused for a business reason: nothing happened there."""

    TAG: ClassVar[str] = "rejected"
    error: str
    #: For the spread of a wait, in [0, 1): used where a refusal is retried (undo, and steps after the pivot).
    random: float
    step: int | None = None


@value
class Failed:
    """The call in flight failed for a time. `unknown`: it may have had its effect (time-out, 5xx, a lost answer)."""

    TAG: ClassVar[str] = "failed"
    error: str
    unknown: bool
    random: float
    retry_after_ms: int | None = None
    step: int | None = None


@value
class Misconfigured:
    """The service does not know the call or us (3xx, 401, 403, 404, 405): a person has to mend something."""

    TAG: ClassVar[str] = "misconfigured"
    error: str
    step: int | None = None


@value
class Due:
    """The wait is over: an operation's, or the one of an instance that waits for its semantic lock."""

    TAG: ClassVar[str] = "due"
    step: int | None = None


@value
class Resumed:
    """A new owner found the call in flight: whether the former one made it, and how it ended, is unknown."""

    TAG: ClassVar[str] = "resumed"
    step: int | None = None


@value
class Restarted:
    """As Resumed, but the former owner was this same process, which lives: no sign that the call kills workers."""

    TAG: ClassVar[str] = "restarted"
    step: int | None = None


@value
class Withdrawn:
    """The owner stops before it made the call in flight."""

    TAG: ClassVar[str] = "withdrawn"
    step: int | None = None


@value
class Broken:
    """What came next could not be computed or kept, through a fault of ours: a person has to look."""

    TAG: ClassVar[str] = "broken"
    error: str


@value
class Locked:
    """The instance holds its semantic lock."""

    TAG: ClassVar[str] = "locked"


@value
class LockRefused:
    """Another instance holds the semantic lock, and the definition says not to wait for it."""

    TAG: ClassVar[str] = "lock_refused"
    #: Id of the other instance.
    holder: str


@value
class LockLost:
    """The semantic lock went to another instance, because nobody worked on this one for the whole lease."""

    TAG: ClassVar[str] = "lock_lost"
    error: str


@value
class Cancel:
    """A person wants it to end, with everything undone that may have happened."""

    TAG: ClassVar[str] = "cancel"
    by: str
    verb: int | None = None


@value
class Retry:
    """A person wants a parked operation called again under a new idempotency key."""

    TAG: ClassVar[str] = "retry"
    by: str
    verb: int | None = None


@value
class SkipStep:
    """A person handled a parked operation: it counts as done. `step` is needed only when several are parked."""

    TAG: ClassVar[str] = "skip"
    by: str
    step: int | None = None
    verb: int | None = None


@value
class Resume:
    """A person wants a paused or parked instance to go on where it stands."""

    TAG: ClassVar[str] = "resume"
    by: str
    verb: int | None = None


@value
class EditContext:
    """A person changes the context of a paused or parked instance by a merge patch (RFC 7396)."""

    TAG: ClassVar[str] = "edit"
    by: str
    patch: Mapping[str, Any]
    verb: int | None = None


@value
class Pause:
    """A person wants nothing to begin until Resume."""

    TAG: ClassVar[str] = "pause"
    by: str
    verb: int | None = None


@value
class Unlock:
    """A person takes the semantic lock from a parked or paused instance; it gets it again before it goes on."""

    TAG: ClassVar[str] = "unlock"
    by: str
    verb: int | None = None


@value
class Migrated:
    """A person moved the instance to another revision. What was before is read by the former one only."""

    TAG: ClassVar[str] = "migrated"
    by: str
    before: str
    #: All of the instance as the new revision sees it.
    instance: Mapping[str, Any]
    verb: int | None = None


Answer: TypeAlias = Succeeded | Unusable | Rejected | Failed | Misconfigured | Resumed | Restarted | Withdrawn
Verb: TypeAlias = Cancel | Retry | SkipStep | Resume | EditContext | Pause | Unlock
Event: TypeAlias = Started | Answer | Due | Broken | Locked | LockRefused | LockLost | Verb | Migrated

_TYPES: Final[Mapping[str, type[Event]]] = {kind.TAG: kind for kind in get_args(Event)}
_FIELDS: Final[Mapping[type[Event], Sequence[str]]] = {
    kind: [it.name for it in fields(kind)] for kind in _TYPES.values()
}


def to_list(event: Event) -> list[Any]:
    """The event as the journal keeps it: its tag and its fields, without those at the end that say nothing."""
    if isinstance(event, Succeeded) and event.step is None:
        return [Succeeded.TAG, event.result]
    kind = type(event)
    form = [kind.TAG, *[getattr(event, name) for name in _FIELDS[kind]]]
    while form[-1] is None:
        form.pop()
    return form


def from_list(form: Sequence[Any]) -> Event:
    """The inverse of `to_list`."""
    return _TYPES[form[0]](*form[1:])
