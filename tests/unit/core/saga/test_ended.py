from datetime import UTC, datetime
from uuid import UUID

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.ended import ENDED, Ended, ended, gone
from marty_msf.core.saga.selection import first_id

NOW = 1_800_000_000_000
HOUR = 3_600_000


def test_nothing_said_means_all_that_ended() -> None:
    assert ended(now_ms=NOW) == Ended()
    assert set(ENDED) == {"Completed", "Compensated", "Failed", "Cancelled"}


def test_filters_are_about_the_end() -> None:
    chosen = ended(state="failed", since="2026-01-31T12:00Z", before="1h", now_ms=NOW)

    assert chosen.states == ("Failed",)
    assert chosen.since == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert chosen.before == datetime.fromtimestamp((NOW - HOUR) / 1000, UTC)


@pytest.mark.parametrize(
    ("filters", "path"),
    [({"state": "parked"}, "state"), ({"since": "soon"}, "since"), ({"before": "999999999d"}, "before")],
)
def test_what_cannot_be_meant_names_its_option(filters: dict[str, str], path: str) -> None:
    with pytest.raises(InvalidDefinition) as raised:
        ended(**filters, now_ms=NOW)

    assert raised.value.path == path


@pytest.mark.parametrize(
    ("instance", "hours", "said"),
    [
        (first_id(NOW - 25 * HOUR), 24, True),
        (first_id(NOW - 23 * HOUR), 24, False),
        (first_id(NOW - 25 * HOUR), None, False),
        (first_id(NOW + HOUR), 24, False),
        (UUID("ffffffff-9d10-4abc-8def-0123456789ab"), 24, False),
        (UUID(int=1), 24, False),
    ],
)
def test_an_id_that_names_nothing_is_said_to_be_gone_only_when_it_may_be(
    instance: UUID, hours: int | None, said: bool
) -> None:
    text = gone(instance, hours, NOW)

    assert bool(text) is said
    assert not said or "removed after 24 h (spec.retention.completedHours)" in text
