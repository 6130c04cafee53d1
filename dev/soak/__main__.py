"""`make soak`: events through relays that are killed with -9 again and again, checked to the last one. Exit code 1 on any difference."""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from dev.demo.render import check_table
from dev.soak.checks import check_all
from dev.soak.plan import Plan
from dev.soak.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=5000, help="events per second")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    plan = Plan(seconds=given.minutes * 60, rate=given.rate, seed=given.seed)
    began = time.monotonic()

    def tell(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)

    directory = Path(tempfile.mkdtemp(prefix="marty-soak-"))
    facts = asyncio.run(run(plan, directory, tell))
    shutil.rmtree(directory / "kafka")
    checks = check_all(plan, facts)
    written, sent_again = facts.written, facts.consumed.discarded
    print(
        f"\n{written.events / plan.seconds:.0f} events/s by {plan.writers} writers, {written.behind_seconds:.1f} s behind their pace"
        f" at most; {written.aborted} transactions rolled back, {written.delayed} events delayed\n"
        f"{facts.kills} kills -9; {sent_again} of {facts.consumed.records} records were sent again"
        f" ({sent_again / max(facts.kills, 1):.0f} a kill); drained {facts.drained_seconds:.1f} s after the last one\n"
    )
    print("\n".join(check_table(checks)))
    ok = all(check.ok for check in checks)
    print(f"\nsoak: {'all as it must be' if ok else f'DIFFERENT, logs in {directory}'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
