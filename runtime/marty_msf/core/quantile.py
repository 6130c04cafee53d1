"""Quantiles from histogram buckets. Pure."""

from collections.abc import Sequence


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float:
    """The value below which this share lies, interpolated inside its bucket; 0 without data.

    `counts` has one bucket more than there are upper `bounds`; what lies in that one is taken for the last bound.
    """
    rank, seen = share * sum(counts), 0
    for index, count in enumerate(counts):
        if count and seen + count >= rank:
            if index >= len(bounds):
                return bounds[-1]
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * (rank - seen) / count
        seen += count
    return 0.0
