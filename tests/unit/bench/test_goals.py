"""Goals are judged by medians of rounds, and ratios by the rounds that two contenders have in common."""

from collections.abc import Mapping

import pytest

from bench.goals import goal_a
from bench.report import table
from bench.rows import Results, Row, ratio

GOOD: Mapping[tuple[str, str], float] = {
    ("marty", "throughput"): 9000,
    ("marty", "half rate"): 4500,
    ("marty", "half rate p99"): 30,
    ("marty", "alone p50"): 3,
    ("marty http", "throughput"): 2500,
    ("bare http client", "throughput"): 10000,
    ("dbos", "throughput"): 100,
    ("temporal", "throughput"): 25,
    ("river", "throughput"): 150,
    ("restate", "throughput"): 400,
}


def rows(figures: Mapping[tuple[str, str], float], number: int = 1) -> list[Row]:
    return [Row(name, {}, number, metric, value, "") for (name, metric), value in figures.items()]


def test_all_goals_are_met_and_told_with_value_ratio_and_peer() -> None:
    goals = goal_a(rows(GOOD))
    assert all(goal.met for goal in goals)
    assert goals[0].line == "GOAL a: 9,000 sagas/s, 90.0x dbos (wanted 8,000 and 50x): met"
    assert [goal.name for goal in goals] == ["a", "a", "a", "a", "a", "a", "a2"]


@pytest.mark.parametrize(
    ("changed", "short"),
    [
        ({("marty", "throughput"): 7999}, 4),
        ({("river", "throughput"): 200}, 1),
        ({("restate", "throughput"): 700}, 1),
        ({("marty", "half rate p99"): 51}, 1),
        ({("marty", "alone p50"): 4.1}, 1),
        ({("marty http", "throughput"): 2000}, 1),
    ],
)
def test_each_missed_goal_is_short(changed: Mapping[tuple[str, str], float], short: int) -> None:
    assert sum(not goal.met for goal in goal_a(rows({**GOOD, **changed}))) == short


def test_a_contender_that_did_not_run_sets_no_goal() -> None:
    assert goal_a(rows({("dbos", "throughput"): 100})) == []


def test_a_ratio_is_the_median_of_ratios_of_one_round_each() -> None:
    figures = [*rows({("a", "x"): 10, ("b", "x"): 1}, 1), *rows({("a", "x"): 30, ("b", "x"): 10}, 2)]
    figures += [*rows({("a", "x"): 100, ("b", "x"): 20}, 3), *rows({("b", "x"): 1}, 4)]
    assert ratio(figures, "x", "a", "b") == 5
    assert ratio(figures, "x", "a", "c") is None


def test_the_table_has_a_line_for_each_contender_that_ran() -> None:
    results = Results("2026-01-01T00:00:00+00:00", {}, False, rows(GOOD), [])
    lines = table(results)
    assert len(lines) == 2 + 7
    assert len({len(line) for line in lines}) == 1
    assert "90.0x" in next(line for line in lines if "DBOS" in line)
