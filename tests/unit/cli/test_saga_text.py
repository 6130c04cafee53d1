from marty_msf.cli.saga_text import timeline
from marty_msf.core.saga.history import CALL, UNKNOWN, Line

AT = 43_391_201  # 12:03:11.201


def undo(number: int, error: str = "HTTP 503") -> Line:
    return Line(AT + 1000 * number, CALL, "pay", True, number, 10, UNKNOWN, error)


def test_a_line_says_what_became_of_a_call() -> None:
    lines = [
        Line(AT, "started"),
        Line(AT, CALL, "reserve", attempt=1, duration_ms=9, outcome="succeeded", result={"id": "res-4", "n": 2}),
        Line(AT, CALL, "pay", attempt=2, duration_ms=30_000, outcome=UNKNOWN, detail="timed out"),
        Line(AT, CALL, "pay", attempt=3, outcome="in flight"),
        Line(AT, "retry", by="ann"),
    ]

    assert timeline(lines, every=False) == [
        ("12:03:11.201", "started", "", ""),
        ("12:03:11.201", "reserve do", "done in 9 ms", "id=res-4 n=2"),
        ("12:03:11.201", "pay do", "failed in 30 s (call 2)", "outcome unknown: timed out"),
        ("12:03:11.201", "pay do", "in flight (call 3)", ""),
        ("12:03:11.201", "retry", "by ann", ""),
    ]


def test_many_calls_that_failed_alike_are_one_line_unless_every_one_is_wanted() -> None:
    lines = [undo(number) for number in range(1, 21)]

    assert timeline(lines, every=False) == [
        ("12:03:12.201", "pay undo", "failed 20 times until 12:03:31.211", "outcome unknown: HTTP 503")
    ]
    assert len(timeline(lines, every=True)) == 20


def test_calls_that_failed_differently_stay_apart() -> None:
    lines = [undo(1), undo(2), undo(3), undo(4, "HTTP 500")]

    assert len(timeline(lines, every=False)) == 2
