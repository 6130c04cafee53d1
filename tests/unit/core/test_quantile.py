"""Quantiles from histogram buckets."""

import pytest

from marty_msf.core.quantile import quantile


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], 0.0),
        ([10, 0, 0], 9.5),
        ([0, 10, 0], 10 + 10 * 0.95),
        ([90, 10, 0], 15.0),
        ([0, 0, 5], 20.0),
    ],
)
def test_it_is_interpolated_inside_its_bucket(counts: list[int], expected: float) -> None:
    assert quantile(0.95, [10, 20], counts) == pytest.approx(expected)
