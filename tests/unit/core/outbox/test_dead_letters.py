"""Which dead letters a person means, and what an edit may do."""

from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.outbox.dead_letters import PAYLOAD_LIMIT_BYTES, Choice, Content, Edit, Person, choice, edited

NOW_MS = 1_800_000_000_000
FORMER = Content(b'{"n": 1}', {"tenant": "t1"})


def test_what_is_not_given_is_not_filtered() -> None:
    assert choice(now_ms=NOW_MS) == Choice()
    assert not choice(now_ms=NOW_MS).filtered
    assert choice(now_ms=NOW_MS).form() == {}


def test_a_choice_is_written_down_as_it_was_meant() -> None:
    chosen = choice(ids=["7", 3, 7], cause="0123456789ab", since="2h", until="2027-01-15T08:00Z", now_ms=NOW_MS)

    assert chosen.form() == {
        "ids": [3, 7],
        "cause": "0123456789ab",
        "since": "2027-01-15T06:00:00+00:00",
        "until": "2027-01-15T08:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"cause": "0123"}, "cause: '0123' is not twelve hex digits"),
        ({"cause": "0123456789AB"}, "cause: "),
        ({"ids": ["x"]}, "id: 'x' is no event's id"),
        ({"ids": [0]}, "id: '0' is no event's id"),
        ({"ids": [True]}, "id: 'True' is no event's id"),
        ({"ids": ["9" * 30]}, "is no event's id"),
        ({"ids": ["0" * 20 + "9" * 30]}, "is no event's id"),
        ({"ids": []}, "ids: are 0: give 1 to 1000"),
        ({"ids": range(1, 1002)}, "ids: are 1001"),
        ({"topic": "a\0b"}, "topic: "),
        ({"aggregate_id": "\ud800"}, "aggregate_id: "),
        ({"since": "soon"}, "since: 'soon' is neither an age nor a time"),
        ({"since": "1h", "until": "2h"}, "until: '2h' is not after since"),
    ],
)
def test_wrong_filters_are_refused_with_a_remedy(filters: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidDefinition) as caught:
        choice(**filters, now_ms=NOW_MS)
    assert text in str(caught.value)
    assert caught.value.remedy


def test_an_edit_replaces_the_payload_and_merges_headers() -> None:
    after = edited(FORMER, Edit(b'{"n": 2}', {"tenant": None, "trace": "x"}))

    assert after == Content(b'{"n": 2}', {"trace": "x"})
    assert edited(FORMER, Edit(headers={"tenant": "t2"})) == Content(FORMER.payload, {"tenant": "t2"})


def test_a_payload_that_was_no_json_needs_to_be_none() -> None:
    assert edited(Content(b"\xff", {}), Edit(b"\xfe")).payload == b"\xfe"
    assert edited(FORMER, Edit(b"\xfe", {"content-type": "application/avro"})).payload == b"\xfe"


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Edit(), "payload: is not given, and no headers either"),
        (Edit(b'{"n": '), "payload: is no JSON, and was before"),
        (Edit(b"1" * (PAYLOAD_LIMIT_BYTES + 1)), "over the limit of 900000"),
        (Edit(headers={"ce_id": "x"}), "headers['ce_id']: is refused"),
        (Edit(headers={"CE_ID": "x"}), "is refused"),
        (Edit(headers={"a b": "x"}), "is refused"),
        (Edit(headers={"a": 1}), "headers['a']: 1 is no text"),  # type: ignore[dict-item]
        (Edit(headers={"a": "x\0"}), "is no text"),
        (Edit(headers={"a": "x" * 17_000}), "headers: are over 16384 bytes"),
    ],
)
def test_what_could_not_be_enqueued_is_refused(edit: Edit, text: str) -> None:
    with pytest.raises(InvalidDefinition) as caught:
        edited(FORMER, edit)
    assert text in str(caught.value)


@pytest.mark.parametrize(("who", "why"), [("", ""), (" ", ""), ("x" * 201, ""), ("ann", "x" * 1001), ("a\0", "")])
def test_a_person_has_a_name(who: str, why: str) -> None:
    with pytest.raises(InvalidDefinition):
        Person(who, why)
