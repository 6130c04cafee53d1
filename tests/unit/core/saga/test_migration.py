from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.instance import Happened, Instance, Operation, State
from marty_msf.core.saga.migration import form, moved, parsed, restored
from tests.unit.core.saga.definitions import ORDER, definition

RESERVE = {"name": "reserve", "compensation": "release"}
CHARGE = {"name": "charge", "compensation": "refund", "pivot": True}
CONFIRM = {"name": "confirm"}
#: `reserve` succeeded, `charge` waits for its next call.
HALF = Instance(
    {"order": 7},
    State.RUNNING,
    (Happened(0, {"reservation": "r1"}),),
    deadline_ms=900,
    operations=(Operation(1, False, calls=2, unknown=True, until_ms=500),),
    stage=1,
    paused_ms=100,
)
#: Everything up to the pivot succeeded, and the last step parked.
LATE = Instance(
    {},
    State.PARKED,
    (Happened(0, {}), Happened(1, {})),
    beyond_pivot=True,
    operations=(Operation(2, False, until_ms=500),),
    stage=2,
)
#: On its way back: `charge` was refused, the undo of `reserve` parked.
BACK = Instance(
    {}, State.PARKED, (Happened(0, {}),), operations=(Operation(0, True, until_ms=500),), stage=1, back=True
)


@pytest.mark.parametrize("instance", [HALF, LATE, BACK])
def test_the_journal_gives_an_instance_back(instance: Instance) -> None:
    assert restored(orjson.loads(orjson.dumps(form(instance)))) == instance


def test_a_step_before_the_instance_may_get_another_name() -> None:
    new = definition({"name": "hold", "compensation": "let_go"}, CHARGE, CONFIRM)

    assert moved(ORDER, new, HALF, {"reserve": "hold"}) == HALF


def test_steps_may_come_behind_the_instance_and_change_their_places() -> None:
    new = definition(RESERVE, CHARGE, {"name": "ship"}, CONFIRM, {"name": "tell"})

    assert moved(ORDER, new, HALF, {}) == HALF


def test_a_step_that_ended_while_the_instance_was_paused_is_behind_it() -> None:
    done = replace(HALF, operations=(), happened=(*HALF.happened, Happened(1, {"paid": True})), beyond_pivot=True)
    new = definition(RESERVE, CHARGE, {"name": "ship"}, CONFIRM)

    found = moved(ORDER, new, done, {})

    assert (found.stage, found.context) == (2, {"order": 7, "paid": True})


def test_an_instance_on_its_way_back_keeps_its_undos() -> None:
    new = definition({"name": "check"}, {**RESERVE, "compensation": "let_go"}, CHARGE)

    found = moved(ORDER, new, BACK, {})

    assert found.happened == (Happened(1, {}),)
    assert found.operations == (Operation(1, True, until_ms=500),)


def test_what_can_no_longer_be_undone_may_be_forgotten_beyond_the_pivot() -> None:
    found = moved(ORDER, definition(CHARGE, CONFIRM), LATE, {})

    assert (found.happened, found.operations[0].step, found.stage) == ((Happened(0, {}),), 1, 1)


@pytest.mark.parametrize(
    ("new", "instance", "names", "text"),
    [
        (definition(RESERVE, CHARGE), replace(HALF, paused_ms=None), {}, "pause it"),
        (definition(RESERVE, CHARGE), replace(HALF, operations=(Operation(1, False),)), {}, "pause it"),
        (definition(RESERVE, CHARGE), replace(LATE, state=State.COMPLETED), {}, "pause it"),
        (definition(RESERVE, CHARGE), HALF, {"fly": "charge"}, "'fly' is no step of revision"),
        (definition(RESERVE, CHARGE), HALF, {"reserve": "fly"}, "'fly' is no step of revision"),
        (definition(RESERVE, CHARGE), HALF, {"reserve": "charge"}, "two steps become charge"),
        (definition({"name": "hold"}, CHARGE), HALF, {}, "reserve may have happened and is no step"),
        (definition({"name": "reserve"}, CHARGE), HALF, {}, "reserve has no compensation: give it one"),
        (definition(RESERVE, {**CHARGE, "name": "pay"}), HALF, {"charge": "pay"}, "its idempotency key has its name"),
        (definition(RESERVE, CONFIRM), HALF, {}, "charge is in work"),
        (definition({"name": "check"}, RESERVE, CHARGE), HALF, {}, "check would never be done"),
        (definition(CHARGE, {"name": "reserve"}), LATE, {}, "charge is in work|confirm is in work"),
        (definition({**CHARGE, "pivot": False}, {**RESERVE}, CONFIRM), HALF, {}, "reserve would be done again"),
        (definition({**RESERVE, "pivot": True}, {"name": "charge"}, CONFIRM), HALF, {}, "put the pivot later"),
        (
            definition(RESERVE, {**CHARGE, "pivot": False}, {**CONFIRM, "pivot": True}),
            LATE,
            {},
            "put the pivot earlier",
        ),
        (definition({"name": "reserve"}, CHARGE), BACK, {}, "no compensation"),
        (
            definition(RESERVE, {"name": "charge", "group": "a"}, {"name": "b", "group": "a"}),
            HALF,
            {},
            "charge is in work and would be one of a parallel group",
        ),
        (definition(RESERVE, CHARGE), replace(HALF, todo=(2,)), {}, "in the middle of a parallel group"),
    ],
)
def test_what_would_lose_repeat_or_leave_out_a_step_is_refused(
    new: Definition, instance: Instance, names: Mapping[str, str], text: str
) -> None:
    with pytest.raises(InvalidDefinition, match=f"^map: .*({text})"):
        moved(ORDER, new, instance, names)


def test_a_map_is_written_as_pairs() -> None:
    assert parsed("reserve=hold, charge=pay") == {"reserve": "hold", "charge": "pay"}
    assert parsed("") == {}


@pytest.mark.parametrize("text", ["reserve", "=hold", "reserve=", "a=b,a=c"])
def test_a_map_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidDefinition, match=r"^map: "):
        parsed(text)


def test_other_values_stay() -> None:
    values: dict[str, Any] = dict(form(HALF))

    assert values["deadline_ms"] == 900
    assert moved(ORDER, ORDER, HALF, {}) == HALF
