"""Causes of dead letters: events that fail alike share one, whatever their ids and numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.outbox.cause import MESSAGE_LIMIT, cause, normalise

TEXTS = st.text()
LIKELY = st.lists(
    st.sampled_from(["'", '"', "`", " ", "x", "0x1f", "deadbeef01", "7", ".", "\n", "é", "a" * 300, "<number>"])
).map("".join)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("message of 1048577 bytes is over 1000000", "message of <number> bytes is over <number>"),
        ("order 3f2b8c1e-9d4a-4b7f-8a6e-0c1d2e3f4a5b is refused", "order <uuid> is refused"),
        ("orders-3@918273: no leader", "orders-<number>@<number>: no leader"),
        ("field 'amount' of \"order 7\" is `null`", "field <value> of <value> is <value>"),
        ("name 'it''s' is taken", "name <value> is taken"),
        ("can't reach broker's port 9092", "can't reach broker's port <number>"),
        ("digest 9f86d081884c7d65 at 0xDEADBEEF", "digest <hex> at <hex>"),
        ("at 2026-01-02 03:04:05.678 from 10.0.0.7:9092", "at <number>-<number>-<number> <number> from <number>"),
        ("defaced facade", "defaced facade"),
        ("first\n  second\t\x00third", "first second third"),
    ],
)
def test_what_differs_from_event_to_event_is_replaced(message: str, expected: str) -> None:
    assert normalise(message) == expected


@given(st.one_of(TEXTS, LIKELY))
def test_normalising_again_changes_nothing(message: str) -> None:
    assert normalise(normalise(message)) == normalise(message)


@given(st.one_of(TEXTS, LIKELY))
def test_a_normalised_message_is_one_short_printable_line_without_digits(message: str) -> None:
    line = normalise(message)

    assert len(line) <= MESSAGE_LIMIT
    assert line.isprintable()
    assert not any(it.isdecimal() for it in line)


@given(st.uuids(), st.integers(min_value=0), st.text().filter(lambda it: "'" not in it))
def test_ids_numbers_and_values_make_no_difference(key: object, number: int, value: str) -> None:
    message = f"event {key} at offset {number} with '{value}' is too large"
    other = "event 00000000-0000-0000-0000-000000000000 at offset 1 with 'x' is too large"

    assert cause("TooLarge", "orders", "Placed", message) == cause("TooLarge", "orders", "Placed", other)


@given(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), st.tuples(TEXTS, TEXTS, TEXTS, TEXTS))
def test_different_failures_have_different_causes(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    alike = (*one[:3], normalise(one[3])) == (*other[:3], normalise(other[3]))

    assert (cause(*one).fingerprint == cause(*other).fingerprint) is alike


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_fingerprint_is_twelve_hex_digits(error_type: str, topic: str, event_type: str, message: str) -> None:
    fingerprint = cause(error_type, topic, event_type, message).fingerprint

    assert len(fingerprint) == 12
    assert set(fingerprint) <= set("0123456789abcdef")


def test_a_fingerprint_is_the_same_in_every_release() -> None:
    assert cause("MessageTooLarge", "orders", "OrderPlaced", "4711 bytes").fingerprint == "7dc35ab6c2b7"
