"""Numbers in the status, and when it is written."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.resources import status as models
from marty_msf.core.worker_status import (
    DeadLetterGroup,
    Local,
    OpenWriter,
    ProjectionTotals,
    RelayTotals,
    SagaTotals,
    Stuck,
    WorkerStatus,
)
from marty_operator.conditions import verdicts
from marty_operator.events import MESSAGE_LIMIT, cause_event
from marty_operator.observation import Observed, Worker
from marty_operator.resource import Key, Manifest, Resource
from marty_operator.status import (
    GROUPS_LIMIT,
    NUMBERS_SECONDS,
    build,
    duration_text,
    new_causes,
    p95_ms,
    quantized_seconds,
    transitions,
    write_delay,
)
from tests.unit.operator.examples import NO_DATABASE, observed, report, worker


def dying(cause: str, since: str = "2026-01-01T00:00:00+00:00", **more: Any) -> DeadLetterGroup:
    fields: dict[str, Any] = {
        "count": 3,
        "sample": 7,
        "topic": "orders",
        "event_type": "placed",
        "message": "too large",
    }
    return DeadLetterGroup(cause=cause, since=since, **{**fields, **more})


TOTALS: dict[str, tuple[type[models.Status], Any]] = {
    "Saga": (
        models.SagaStatus,
        SagaTotals(active=3, completed=181, compensated=19, failed=2, cancelled=1, average_duration_ms=12.6),
    ),
    "OutboxRelay": (
        models.OutboxRelayStatus,
        RelayTotals(
            pending=4,
            published_total=9,
            events_per_second=41.3,
            lag_seconds=0.23,
            oldest_pending_seconds=12.34,
            failed_total=5,
            error_rate=0.12345,
            dead=3,
            dead_total=8,
            dead_letter_groups=[dying("0123456789ab", message="x" * 500)],
            oldest_open_writer=OpenWriter(name="pid 4711 psql", seconds=185.2),
        ),
    ),
    "Projection": (models.ProjectionStatus, ProjectionTotals(processed_total=12, lag=3, lag_seconds=12.4)),
}


def status(kind: str, seen: Observed, previous: Manifest | None = None) -> Manifest:
    return build(Key(kind, "shop", "orders"), seen, verdicts(seen), previous or {}, "2026-01-01T00:00:00Z")


def seen_with(totals: Any) -> Observed:
    return observed(Worker(worker().pod, report("rev-new", totals=totals)))


@pytest.mark.parametrize("kind", TOTALS)
def test_the_status_is_exactly_what_the_schema_keeps(kind: str) -> None:
    model, totals = TOTALS[kind]
    model.model_validate(status(kind, seen_with(totals)))


def test_a_saga_shows_its_global_totals_once() -> None:
    two = (Worker(worker().pod, report("rev-new", totals=SagaTotals(completed=n))) for n in (10, 11))
    assert status("Saga", observed(*two, replicas=2))["completed"] == 11


def following(revisions: dict[str, int] | None) -> Worker:
    local = Local(holder="p", lanes=1, started_at="", active_by_revision=revisions)
    return Worker(worker().pod, report("rev-new", local=local, totals=SagaTotals()))


def test_instances_are_counted_by_revision_over_all_pods() -> None:
    shown = status("Saga", observed(following({"a": 2, "b": 1}), following({"b": 4, "c": 0}), replicas=2))

    assert shown["revisions"] == [{"revision": "b", "active": 5}, {"revision": "a", "active": 2}]


def test_pods_that_work_on_nothing_do_not_empty_the_revisions() -> None:
    before = status("Saga", observed(following({"a": 2})))

    assert status("Saga", observed(following(None)), before)["revisions"] == [{"revision": "a", "active": 2}]
    assert status("Saga", observed(following({})), before)["revisions"] == []


def standing_still(stuck: Stuck | None) -> Worker:
    local = Local(holder="p", lanes=1, started_at="", stuck=stuck)
    return Worker(worker().pod, report("rev-new", local=local, totals=SagaTotals()))


def test_stuck_instances_are_added_up_and_the_longest_standstill_is_told() -> None:
    two = [Stuck(count=2, since_ms=2000, diagnosis="later"), Stuck(count=1, since_ms=1000, diagnosis="first")]
    shown = status("Saga", observed(*map(standing_still, [*two, Stuck(), None]), replicas=4))
    assert (shown["stuck"], shown["stuckDiagnosis"]) == (3, "first")

    assert status("Saga", observed(standing_still(None)), shown)["stuck"] == 3
    again = status("Saga", observed(standing_still(Stuck())), shown)
    assert (again["stuck"], again["stuckDiagnosis"]) == (0, "")


def test_counts_stay_while_no_worker_answers_but_a_rate_does_not() -> None:
    before = status("OutboxRelay", seen_with(TOTALS["OutboxRelay"][1]))
    after = status("OutboxRelay", observed(), before)
    assert (after["pending"], after["publishedTotal"]) == (4, 9)
    assert (after["eventsPerSecond"], after["rate"]) == (0, "0/s")


def test_equal_observations_cause_no_write() -> None:
    before = status("Saga", seen_with(TOTALS["Saga"][1]))
    assert write_delay(before, status("Saga", seen_with(TOTALS["Saga"][1]), before), 1000) is None


@pytest.mark.parametrize(("since", "expected"), [(0, NUMBERS_SECONDS), (3, NUMBERS_SECONDS - 3), (5, 0), (99, 0)])
def test_numbers_alone_are_written_now_and_then(since: float, expected: float) -> None:
    before = status("Saga", seen_with(SagaTotals(completed=1)))
    assert write_delay(before, status("Saga", seen_with(SagaTotals(completed=2)), before), since) == expected


@pytest.mark.parametrize(
    "after",
    [observed(worker(NO_DATABASE)), observed(worker(), generation=4), observed(worker(), worker()), observed()],
    ids=["condition", "generation", "replicas", "no pods"],
)
def test_transitions_are_written_at_once(after: Observed) -> None:
    before = status("Saga", observed(worker()))
    assert write_delay(before, status("Saga", after, before), 0) == 0


def test_the_first_status_is_written_at_once() -> None:
    assert write_delay({}, status("Saga", observed()), 0) == 0


def test_only_changed_conditions_become_events() -> None:
    before = status("Saga", observed(worker()))
    after = status("Saga", observed(worker(NO_DATABASE)), before)
    assert [c["type"] for c in transitions(before, after)] == ["Ready"]
    assert transitions(after, status("Saga", observed(worker(NO_DATABASE)), after)) == []


def test_a_relay_tells_of_its_dead_letters_and_of_a_writer_that_stays_open() -> None:
    shown = status("OutboxRelay", seen_with(TOTALS["OutboxRelay"][1]))

    assert (shown["failed"], shown["deadLettered"], shown["deadLetteredTotal"]) == (5, 3, 8)
    assert (shown["errorRate"], shown["oldestPendingSeconds"]) == (0.123, 12)
    assert shown["oldestOpenWriter"] == "pid 4711 psql, open for 3m00s"
    (group,) = shown["deadLetterGroups"]
    assert (group["cause"], group["count"], group["sample"], group["eventType"]) == ("0123456789ab", 3, 7, "placed")
    short = RelayTotals(oldest_open_writer=OpenWriter(name="pid 4711 psql", seconds=59))
    assert status("OutboxRelay", seen_with(short))["oldestOpenWriter"] == ""


def with_causes(*groups: DeadLetterGroup, previous: Manifest | None = None) -> Manifest:
    return status("OutboxRelay", seen_with(RelayTotals(dead_letter_groups=list(groups))), previous)


def test_a_cause_is_new_once() -> None:
    none, one = with_causes(), with_causes(dying("a"))
    both = with_causes(dying("b"), dying("a", count=9))

    assert [it["cause"] for it in new_causes({}, one)] == ["a"]
    assert [it["cause"] for it in new_causes(none, one)] == ["a"]
    assert [it["cause"] for it in new_causes(one, both)] == ["b"]
    assert new_causes(both, both) == []
    assert new_causes(both, status("OutboxRelay", observed(), both)) == []
    assert new_causes(both, none) == []
    assert new_causes({}, status("Saga", observed())) == []


def test_of_a_full_list_a_cause_that_comes_back_is_not_new() -> None:
    full = with_causes(*(dying(f"c{number}", f"2026-01-{number + 10}") for number in range(GROUPS_LIMIT)))

    assert new_causes(full, with_causes(dying("old", "2026-01-02"))) == []
    assert [it["cause"] for it in new_causes(full, with_causes(dying("young", "2026-02-01")))] == ["young"]


def test_a_new_cause_becomes_a_warning() -> None:
    resource = Resource(Key("OutboxRelay", "shop", "orders"), "uid-1", 1, deleting=False)
    (group,) = new_causes({}, with_causes(dying("0123456789ab")))

    found = cause_event(resource, group, datetime(2026, 1, 1, tzinfo=UTC))

    assert (found["type"], found["reason"]) == ("Warning", "DeadLetterCause")
    assert found["message"] == (
        "dead letters of a new cause 0123456789ab: 3 of type placed for topic orders: too large: "
        "look with `marty dlq show 7`"
    )
    assert len(found["message"]) < MESSAGE_LIMIT
    assert found["involvedObject"]["name"] == "orders"


def histogram(bounds: list[float], counts: list[int]) -> WorkerStatus:
    local = Local(holder="p", lanes=1, started_at="", duration_bucket_bounds_ms=bounds, duration_bucket_counts=counts)
    return report("r", local=local)


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([], 0),
        ([histogram([10, 100], [0, 0, 0])], 0),
        ([histogram([10, 100], [100, 0, 0])], 10),
        ([histogram([10, 100], [50, 50, 0])], 91),
        ([histogram([10, 100], [50, 0, 50])], 100),
        ([histogram([10, 100], [90, 0, 0]), histogram([10, 100], [0, 10, 0])], 55),
        ([histogram([10, 100], [10, 0, 0]), histogram([7], [0, 99])], 10),
    ],
)
def test_p95_over_all_pods(reports: list[WorkerStatus], expected: int) -> None:
    assert p95_ms(reports) == pytest.approx(expected, abs=1)


@given(counts=st.lists(st.integers(0, 1000), min_size=4, max_size=4))
def test_p95_lies_within_the_buckets(counts: list[int]) -> None:
    assert 0 <= p95_ms([histogram([1, 10, 100], counts)]) <= 100


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (213.6, "214ms"), (1234, "1.2s"), (38_000, "38s"), (250_000, "4m10s"), (11_520_000, "3h12m")],
)
def test_durations_read_well(ms: float, text: str) -> None:
    assert duration_text(ms) == text


@given(st.floats(0, 1e6))
def test_quantizing_stays_close(seconds: float) -> None:
    assert abs(quantized_seconds(seconds) - seconds) <= max(0.05, 0.5 if seconds < 60 else 5)
