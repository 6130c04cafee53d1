"""What a measurement charges to whom."""

from bench.harness import cpu_since, settled


def test_a_session_that_ends_is_charged_with_what_it_used_since_the_beginning_only() -> None:
    before = {("postgres", 1): 10.0, ("postgres", 7): 5.0, ("worker", 9): 1.0}
    # Session 7 used another second and ended: all six are in the postmaster's account. Session 8 is new.
    after = {("postgres", 1): 16.5, ("postgres", 8): 0.25, ("worker", 9): 3.0}
    assert cpu_since(before, after) == {"postgres": 1.75, "worker": 2.0}


def test_a_session_that_ends_during_a_look_is_looked_for_again() -> None:
    # Reaped between the looks at the postmaster and at itself: nobody has its five seconds.
    looks = iter([{("postgres", 1): 10.0, ("postgres", 7): 5.0}, {("postgres", 1): 10.0}, {("postgres", 1): 15.0}])
    assert settled(lambda: next(looks)) == {("postgres", 1): 15.0}
