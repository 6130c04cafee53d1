import pytest

from marty_msf.core.outbox.attempts import AttemptRules, Verdict, verdict

RULES = AttemptRules(threshold=5, max_attempts=10, backoff_ms=100, max_backoff_ms=1000)


@pytest.mark.parametrize(
    ("own", "attempts", "expected"),
    [
        (None, 1, Verdict(1, dead=False, wait_ms=100)),
        (None, 4, Verdict(4, dead=False, wait_ms=800)),
        (None, 5, Verdict(5, dead=True, wait_ms=0)),
        (1, 1, Verdict(1, dead=True, wait_ms=0)),
        (8, 7, Verdict(7, dead=False, wait_ms=1000)),
        (8, 8, Verdict(8, dead=True, wait_ms=0)),
        (1000, 10, Verdict(10, dead=True, wait_ms=0)),
    ],
)
def test_an_event_gets_its_own_or_the_relays_attempts_but_never_more_than_the_most(
    own: int | None, attempts: int, expected: Verdict
) -> None:
    assert verdict(RULES, own, attempts) == expected


def test_waits_stay_bounded_however_many_attempts_there_were() -> None:
    assert AttemptRules(1000, 1000, 1, 60_000).wait_ms(999) == 60_000
