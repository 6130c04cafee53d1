"""Verbs as people ask for them: a name, arguments, who; and the event that each becomes."""

from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.events import Cancel, EditContext, Pause, Resume, Retry, SkipStep, Unlock, Verb
from marty_msf.core.saga.selection import sought

#: By the name on the command line, in URLs and in the database.
VERBS: Final[Mapping[str, type[Verb]]] = {
    "cancel": Cancel,
    "retry": Retry,
    "skip-step": SkipStep,
    "resume": Resume,
    "edit-context": EditContext,
    "pause": Pause,
    "unlock": Unlock,
}
NAMES: Final[Mapping[type[Verb], str]] = {kind: name for name, kind in VERBS.items()}
MIGRATE: Final = "migrate"
#: The arguments that a verb takes; all the others take none.
_ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    "skip-step": frozenset({"step"}),
    "edit-context": frozenset({"patch"}),
    MIGRATE: frozenset({"from", "to", "map"}),
}
BY_CHARACTERS: Final = 200


def check(verb: str, arguments: Mapping[str, Any], by: str) -> None:
    """Raise InvalidDefinition for what no instance could obey."""
    if verb not in VERBS and verb != MIGRATE:
        raise InvalidDefinition("verb", f"{verb!r} is none", f"give one of {', '.join([*VERBS, MIGRATE])}")
    if not 1 <= len(by.strip()) <= BY_CHARACTERS or not by.isprintable():
        raise InvalidDefinition("by", "is no name", f"say who asks, in 1 to {BY_CHARACTERS} printable characters")
    known = _ARGUMENTS.get(verb, frozenset())
    if unknown := sorted(arguments.keys() - known):
        raise InvalidDefinition(unknown[0], f"is no argument of {verb}", f"give {', '.join(sorted(known)) or 'none'}")
    if verb == "edit-context" and not isinstance(arguments.get("patch"), dict):
        raise InvalidDefinition("patch", "is missing or no object", 'give the members to change, {"total": 7}')
    if verb == "skip-step" and not isinstance(arguments.get("step", ""), str):
        raise InvalidDefinition("step", "is no text", "give the name of a step")
    sought("step", arguments.get("step"))
    if verb == MIGRATE:
        for name in ("from", "to"):
            revision = arguments.get(name)
            if not isinstance(revision, str):
                raise InvalidDefinition(name, "is missing or no text", "give a revision of the definition")
            sought(name, revision)
        names = arguments.get("map", {})
        if not isinstance(names, dict) or not all(isinstance(it, str) for it in names.values()):
            raise InvalidDefinition("map", "is no object of step names", 'give {"old": "new"}')
        for text in chain.from_iterable(names.items()):
            sought("map", text)


def event(verb: str, arguments: Mapping[str, Any], by: str, number: int | None, definition: Definition) -> Verb:
    """The event of a checked verb; `number` is its row. Raises InvalidDefinition for a step the instance has not."""
    match verb:
        case "skip-step":
            name = arguments.get("step")
            return SkipStep(by, None if name is None else _step(name, definition), number)
        case "edit-context":
            return EditContext(by, arguments["patch"], number)
        case "cancel":
            return Cancel(by, number)
        case "retry":
            return Retry(by, number)
        case "resume":
            return Resume(by, number)
        case "unlock":
            return Unlock(by, number)
        case _:
            return Pause(by, number)


def _step(name: str, definition: Definition) -> int:
    names = [step.name for step in definition.steps]
    if name not in names:
        raise InvalidDefinition("step", f"{name!r} is none of this instance", f"give one of {', '.join(names)}")
    return names.index(name)
