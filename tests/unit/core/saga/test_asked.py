from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.asked import NAMES, VERBS, check, event
from marty_msf.core.saga.events import EditContext, SkipStep
from tests.unit.core.saga.definitions import ORDER

ARGUMENTS: dict[str, dict[str, Any]] = {"edit-context": {"patch": {"total": 7}}, "skip-step": {"step": "charge"}}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_becomes_its_event_with_who_and_which_row(verb: str) -> None:
    arguments = ARGUMENTS.get(verb, {})
    check(verb, arguments, "ann")

    made = event(verb, arguments, "ann", 7, ORDER)

    assert NAMES[type(made)] == verb
    assert (made.by, made.verb) == ("ann", 7)


def test_arguments_reach_the_event() -> None:
    assert event("edit-context", {"patch": {"total": 7}}, "ann", 1, ORDER) == EditContext("ann", {"total": 7}, 1)
    assert event("skip-step", {}, "ann", 1, ORDER) == SkipStep("ann", None, 1)
    assert event("skip-step", {"step": ORDER.steps[1].name}, "ann", 1, ORDER) == SkipStep("ann", 1, 1)


@pytest.mark.parametrize(
    ("verb", "arguments", "by", "path"),
    [
        ("restart", {}, "ann", "verb"),
        ("retry", {}, "", "by"),
        ("retry", {}, "a\nb", "by"),
        ("retry", {}, "x" * 201, "by"),
        ("retry", {"step": "charge"}, "ann", "step"),
        ("edit-context", {}, "ann", "patch"),
        ("edit-context", {"patch": [1]}, "ann", "patch"),
        ("skip-step", {"step": 1}, "ann", "step"),
        ("migrate", {"from": "a", "to": "b\0"}, "ann", "to"),
        ("migrate", {"from": "\ud800", "to": "b"}, "ann", "from"),
    ],
)
def test_what_no_instance_could_obey_is_refused_by_name(
    verb: str, arguments: dict[str, Any], by: str, path: str
) -> None:
    with pytest.raises(InvalidDefinition, match=f"^{path}: "):
        check(verb, arguments, by)


def test_a_step_that_the_instance_has_not_is_refused() -> None:
    with pytest.raises(InvalidDefinition, match=r"^step: 'fly' is none of this instance"):
        event("skip-step", {"step": "fly"}, "ann", 1, ORDER)
