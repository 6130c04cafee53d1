import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.retry import LONGEST_RETRY_AFTER_MS, RetryPolicy, delay_ms

PLAIN = RetryPolicy(attempts=5, initial_backoff_ms=200, multiplier=2, max_backoff_ms=1000, jitter=0)


@pytest.mark.parametrize(("calls", "wait"), [(1, 200), (2, 400), (3, 800), (4, 1000), (1000, 1000)])
def test_waits_grow_to_the_cap(calls: int, wait: int) -> None:
    assert delay_ms(PLAIN, calls, 0.5) == wait


def test_a_huge_exponent_gives_the_cap() -> None:
    assert delay_ms(RetryPolicy(1000, 1, 100, 86_400_000, 0), 1000, 0.5) == 86_400_000


def test_attempts_count_the_first_call() -> None:
    assert [PLAIN.allows(calls) for calls in (1, 4, 5, 6)] == [True, True, False, False]


def test_a_service_may_ask_for_a_longer_wait_within_bounds() -> None:
    assert delay_ms(PLAIN, 1, 0.5, retry_after_ms=5000) == 5000
    assert delay_ms(PLAIN, 1, 0.5, retry_after_ms=50) == 200
    assert delay_ms(PLAIN, 1, 0.5, retry_after_ms=10**12) == LONGEST_RETRY_AFTER_MS


@given(
    calls=st.integers(1, 1000),
    random=st.floats(0, 1, exclude_max=True),
    initial=st.integers(1, 3_600_000),
    multiplier=st.floats(1, 100),
    cap=st.integers(1, 86_400_000),
    jitter=st.floats(0, 1),
)
def test_jitter_stays_within_its_share(
    calls: int, random: float, initial: int, multiplier: float, cap: int, jitter: float
) -> None:
    bare = delay_ms(RetryPolicy(1, initial, multiplier, cap, 0), calls, random)
    spread = delay_ms(RetryPolicy(1, initial, multiplier, cap, jitter), calls, random)
    assert spread >= 1
    assert bare * (1 - jitter) - 1 <= spread <= bare * (1 + jitter) + 1
