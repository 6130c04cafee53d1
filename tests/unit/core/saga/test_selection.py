from typing import Any
from uuid import UUID

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.identity import uuid7
from marty_msf.core.saga.selection import Selection, selection

NOW = 1_800_000_000_000


def test_nothing_said_means_every_instance() -> None:
    assert selection(now_ms=NOW) == Selection()


def test_states_are_named_in_any_case() -> None:
    assert selection(state="parked, RUNNING", now_ms=NOW).states == ("Parked", "Running")


def test_a_step_means_instances_that_have_one() -> None:
    states = selection(step="charge", now_ms=NOW).states or ()

    assert "Parked" in states
    assert "Completed" not in states


@pytest.mark.parametrize(
    ("text", "ago_ms"), [("90s", 90_000), ("30m", 1_800_000), ("2h", 7_200_000), ("3d", 259_200_000)]
)
def test_an_age_bounds_the_ids(text: str, ago_ms: int) -> None:
    found = selection(since=text, before=text, now_ms=NOW)

    first = UUID(bytes=uuid7(NOW - ago_ms, 0))
    assert found.from_id == found.below_id == first
    assert UUID(bytes=uuid7(NOW - ago_ms - 1, (1 << 74) - 1)) < first


def test_a_time_without_a_zone_is_utc() -> None:
    assert selection(since="2026-01-31T12:00", now_ms=NOW) == selection(since="2026-01-31T12:00Z", now_ms=NOW)


def test_times_before_ids_began_and_after_they_end_are_taken() -> None:
    assert selection(since="1960-01-01", now_ms=NOW).from_id == UUID(bytes=uuid7(0, 0))
    assert selection(since="9d", now_ms=0).from_id == UUID(bytes=uuid7(0, 0))
    assert selection(before="9999-12-31", now_ms=NOW).below_id is not None


@pytest.mark.parametrize(
    ("key", "pattern"), [("order-*", "order-%"), ("100%", "100\\%"), ("a_b", "a\\_b"), ("a\\b*", "a\\\\b%")]
)
def test_only_the_star_stands_for_anything_in_a_key(key: str, pattern: str) -> None:
    assert selection(key=key, now_ms=NOW).key == pattern


@pytest.mark.parametrize(
    ("filters", "path"),
    [
        ({"state": "sleeping"}, "state"),
        ({"since": "yesterday"}, "since"),
        ({"before": "5w"}, "before"),
        *(({name: "a\0b"}, name) for name in ("key", "step", "error", "revision")),
        ({"key": "a\udcff"}, "key"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(filters: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidDefinition, match=f"^{path}: "):
        selection(**filters, now_ms=NOW)
