"""kill -9 in every gap between two effects of a pass: nothing lost, calls repeat with their key and their bytes."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.support.effects import killed_in, recorded
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]

#: What each of the two orders has done to the services when all is over, in this order.
EXPECTED = {"order-0": ["reserve", "charge", "confirm"], "order-1": ["reserve", "charge", "release"]}
EXPIRE = (
    "UPDATE marty.lease SET expires_at = '-infinity' WHERE scope = $1",
    "UPDATE marty.worker SET expires_at = '-infinity' WHERE scope = $1",
)


class Service(NamedTuple):
    port: int
    ledger: Path


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    it = Service(free_port(), tmp_path / "ledger")
    arguments = ["-m", "tests.integration.saga.service", str(it.port), str(it.ledger)]
    async with running(arguments, tmp_path / "service.log"):
        await eventually(lambda: _listens(it.port))
        yield it


async def test_a_crash_in_any_gap_loses_nothing_and_repeats_calls_only_with_their_key(
    postgres_url: str, conn: asyncpg.Connection, service: Service, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    assert await _pass(postgres_url, "shop/whole", service, whole) == 0
    effects = recorded(whole)
    assert {"call reserve", "answer confirm", "call release", "end of the pass"} <= set(effects)

    two_at_once = asyncio.Semaphore(2)

    async def crash(gap: int) -> int | None:
        async with two_at_once:
            resource, journal = f"shop/gap-{gap}", tmp_path / f"gap-{gap}"
            assert await _pass(postgres_url, resource, service, journal, gap) == -9
            async with two_at_once_connections:
                for statement in EXPIRE:
                    await conn.execute(statement, f"saga:{resource}")
            assert await _pass(postgres_url, resource, service) == 0
            return killed_in(journal)

    two_at_once_connections = asyncio.Lock()
    tried = await asyncio.gather(*(crash(gap) for gap in range(len(effects))))

    assert tried == list(range(len(effects))), "a gap was not tried"
    calls = _by_saga(service.ledger)
    rows = await conn.fetch("SELECT resource, business_key, id::text, state FROM marty.saga_instance")
    assert len(rows) == 2 * (len(effects) + 1)
    for resource, business_key, saga, state in rows:
        done = calls[saga]
        assert state == ("Completed" if business_key == "order-0" else "Compensated"), resource
        firsts = [call["action"] for call in done if call["first"]]
        # An undo of what was refused may come on top: after a crash its outcome was unknown.
        assert [action for action in firsts if action != "refund"] == EXPECTED[business_key], resource
        for key in {call["key"] for call in done}:
            same = [call["body"] for call in done if call["key"] == key]
            assert len(same) <= 2, "more than the documented duplicate"
            assert len(set(same)) == 1, "a repeated call must have the same bytes"
    sums = await conn.fetchrow(
        "SELECT sum(started), sum(completed), sum(compensated), sum(parked) FROM marty.saga_counter"
    )
    assert tuple(sums) == (len(rows), len(rows) // 2, len(rows) // 2, 0)


async def _pass(url: str, resource: str, service: Service, journal: Path | None = None, gap: int | None = None) -> int:
    arguments = [url, resource, str(service.port), str(journal or "-"), *([str(gap)] if gap is not None else [])]
    log = service.ledger.with_name(f"{resource.replace('/', '-')}.log")
    async with running(["-m", "tests.integration.saga.crash_pass", *arguments], log) as process:
        code = await process.wait(60)
    assert code in {0, -9}, process.output()
    return code


def _by_saga(ledger: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in ledger.read_text().splitlines():
        call = json.loads(line)
        found[call["key"].partition(":")[0]].append(call)
    return found


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
