"""The soak in small, so that `make soak` works whenever somebody wants the long one."""

from pathlib import Path

import pytest

from dev.demo.render import check_table
from dev.soak.checks import check_all
from dev.soak.plan import Plan
from dev.soak.run import run

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]


async def test_under_kills_every_event_is_published_in_order_and_counted_once(tmp_path: Path) -> None:
    told: list[str] = []
    plan = Plan(seconds=20, rate=500, writers=3, aggregates=500, kill_seconds=4, poison_seconds=7, quiet_seconds=120)
    checks = check_all(plan, await run(plan, tmp_path, told.append))
    assert all(check.ok for check in checks), "\n".join([*told, *check_table(checks)])
