"""How the demo's result looks."""

import json
from dataclasses import replace

import pytest

from dev.demo.checks import Check
from dev.demo.killing import Killed
from dev.demo.load import Latency
from dev.demo.render import Report, as_json, as_text, check_table

GOOD = Check("orders placed = sagas ended", "200", "200", ())
BAD = Check("payments", "5", "4", tuple(f"order-{number:02}" for number in range(12)))

REPORT = Report(
    cluster="the local cluster",
    orders_placed=200,
    killed=Killed(("saga-1", "relay-1", "projection-1"), 42, 37),
    repeated_messages=3,
    latency=Latency(412.0, 700.0, 901.0),
    crashed=(),
    checks=(GOOD,),
    resources="NAME  READY\nsaga  True\n",
    shop_address="http://10.96.0.5",
)


def test_the_columns_are_aligned_and_a_failed_check_names_the_ids() -> None:
    lines = check_table([GOOD, BAD])

    assert lines[0] == "check                         expected   found"
    assert lines[1] == "orders placed = sagas ended   200        200     ok"
    assert lines[2] == "payments                      5          4       DIFFERENT"
    assert lines[3] == "    order-00"
    assert lines[-1] == "    and 2 more"


def test_the_text_has_tables_kills_and_latency() -> None:
    text = as_text(REPORT)

    assert text.startswith("NAME  READY\nsaga  True\n")
    assert "42 sagas were active (37 right after): saga-1, relay-1, projection-1" in text
    assert "median 412 ms ok, p95 700 ms, longest 901 ms" in text
    assert "http://10.96.0.5" in text


@pytest.mark.parametrize(
    ("report", "ok"),
    [
        (REPORT, True),
        (replace(REPORT, checks=(GOOD, BAD)), False),
        (replace(REPORT, latency=Latency(1000.1, 1100.0, 1200.0)), False),
        (replace(REPORT, latency=None), False),
        (replace(REPORT, crashed=("relay-2: 1 times, no trace",)), False),
    ],
)
def test_any_difference_and_a_slow_median_fail_the_demo(report: Report, ok: bool) -> None:
    assert report.ok is ok
    assert json.loads(as_json(report))["ok"] is ok
    assert as_text(report)


def test_the_json_has_every_differing_id() -> None:
    body = json.loads(as_json(replace(REPORT, checks=(BAD,))))

    assert len(body["checks"][0]["differing"]) == 12
    assert body["latency"]["median_ms"] == 412.0
