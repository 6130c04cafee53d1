"""The chaos run in small, so that `make chaos` works whenever somebody wants the long one."""

from pathlib import Path

import pytest

from dev.chaos.checks import check_all
from dev.chaos.plan import Plan
from dev.chaos.run import run
from dev.demo.render import check_table

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]


async def test_under_kills_a_crash_of_postgres_and_a_bad_service_every_instance_ends_and_the_ledger_balances(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    plan = Plan(
        instances=300, seconds=4, timeout_ms=1000, kill_seconds=(1, 1.5), kills=3, restarts=(0.4,), quiet_seconds=120
    )
    checks = check_all(plan, await run(plan, tmp_path, told.append))
    assert all(check.ok for check in checks), "\n".join([*told, *check_table(checks)])
