"""Data that a start gave to single steps is kept from the steps' sight, and from edits that would lose it."""

from dataclasses import replace
from typing import Any

import pytest

from marty_msf.core.saga.events import EditContext
from marty_msf.core.saga.instance import Instance, State
from marty_msf.core.saga.own_data import OWN_DATA
from marty_msf.core.saga.verbs import refusal
from tests.unit.core.saga.definitions import ORDER

OWN = replace(ORDER, steps=tuple(replace(step, own_data=True) for step in ORDER.steps))
CONTEXT = {"total": 1, OWN_DATA: {"reserve": {"amount": 5}, "charge": {}}}


def why_not(definition: Any, patch: dict[str, Any]) -> str | None:
    return refusal(definition, Instance(CONTEXT, State.PARKED), EditContext("ann", patch, 1), 0)


@pytest.mark.parametrize("data", [5, None, [], {"reserve": 5}, {"reserve": None}])
def test_an_edit_that_loses_the_data_of_a_step_is_refused_by_its_name(data: Any) -> None:
    """Naive: the step runs without its data and the saga completes."""
    problem = why_not(OWN, {OWN_DATA: data, "total": 7})
    assert problem is not None
    assert problem.startswith(OWN_DATA)


@pytest.mark.parametrize("patch", [{"total": 7}, {OWN_DATA: {"reserve": {"amount": 7, "x": None}, "other": {}}}])
def test_members_of_a_steps_data_may_be_changed(patch: dict[str, Any]) -> None:
    assert why_not(OWN, patch) is None


def test_where_no_step_has_data_of_its_own_the_name_is_like_any_other() -> None:
    assert why_not(ORDER, {OWN_DATA: 5}) is None
