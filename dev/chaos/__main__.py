"""`make chaos`: a saga under kill -9, restarts of its database and a bad service, checked to the last call. Exit code 1 on any difference."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from dev.chaos.checks import check_all
from dev.chaos.plan import Plan
from dev.chaos.run import run
from dev.demo.render import check_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    plan = Plan(instances=given.instances, seconds=given.minutes * 60, seed=given.seed)
    began = time.monotonic()

    def tell(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)

    directory = Path(tempfile.mkdtemp(prefix="marty-chaos-logs-"))
    facts = asyncio.run(run(plan, directory, tell))
    checks = check_all(plan, facts)
    calls = facts.calls
    print(
        f"\n{facts.kills} kills -9, {facts.restarts} restarts of Postgres; {calls.calls} calls did something under "
        f"{calls.keys} keys, {calls.too_late} came behind their undo\n"
    )
    print("\n".join(check_table(checks)))
    ok = all(check.ok for check in checks)
    print(f"\nchaos: {'all as it must be' if ok else f'DIFFERENT, logs in {directory}'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
