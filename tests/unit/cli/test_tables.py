from datetime import UTC, datetime, timedelta

import pytest

from marty_msf.cli.tables import age, duration, table


def test_columns_are_aligned_and_hostile_text_stays_one_line() -> None:
    text = table(["ID", "KEY", "ERROR"], [["1", "order-77", "HTTP 503\nfrom \x1b[31mshop"], ["22", "b", "-"]])

    assert text.splitlines() == [
        "ID   KEY        ERROR",
        "1    order-77   HTTP 503 from  [31mshop",
        "22   b          -",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (38, "38s"),
        (240, "4m"),
        (245, "4m5s"),
        (660, "11m"),
        (7500, "2h5m"),
        (273_600, "3d4h"),
        (10**7, "115d"),
    ],
)
def test_ages_have_two_units_while_the_first_is_small(seconds: int, text: str) -> None:
    now = datetime(2026, 1, 31, tzinfo=UTC)

    assert age(now - timedelta(seconds=seconds), now) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(9, "9 ms"), (1234, "1.2 s"), (30_000, "30 s"), (119_999, "119 s"), (580_000, "9 min 40 s")]
)
def test_durations_are_as_exact_as_they_are_short(ms: int, text: str) -> None:
    assert duration(ms) == text
