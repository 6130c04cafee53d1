"""kill -9 in every gap of a pass with steps at the same time: nothing lost, undo in the exact reverse of completion."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from marty_msf.core.saga.definition import load
from marty_msf.core.saga.history import CALL, history
from marty_msf.store import saga_instance
from tests.integration.saga.test_crashes import EXPIRE, Service, _by_saga, _listens
from tests.support.effects import killed_in, recorded
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(400)]

#: How many writes there are depends on which answers share a wave: a gap is tried until a pass is long enough for it.
TRIES = 6
SHORTEST_PASS = 30
EXPECTED = {"order-0": "Completed", "order-1": "Compensated", "order-2": "Compensated"}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    it = Service(free_port(), tmp_path / "ledger")
    arguments = ["-m", "tests.integration.saga.service", str(it.port), str(it.ledger)]
    async with running(arguments, tmp_path / "service.log"):
        await eventually(lambda: _listens(it.port))
        yield it


async def test_a_crash_in_any_gap_of_a_group_undoes_exactly_what_may_have_happened_in_reverse(
    postgres_url: str, conn: asyncpg.Connection, service: Service, tmp_path: Path
) -> None:
    wholes = []
    for number in range(2):
        whole = tmp_path / f"whole-{number}"
        assert await _pass(postgres_url, f"shop/whole-{number}", service, whole) == 0
        wholes.append(len(recorded(whole)))
    assert {"call check", "answer reserve", "call uncheck", "call release"} <= set(recorded(whole))

    two_at_once = asyncio.Semaphore(2)
    one_statement = asyncio.Lock()

    async def crash(gap: int) -> int | None:
        async with two_at_once:
            for attempt in range(TRIES):
                resource, journal = f"shop/gap-{gap}-{attempt}", tmp_path / f"gap-{gap}-{attempt}"
                if await _pass(postgres_url, resource, service, journal, gap) == 0:
                    wholes.append(len(recorded(journal)))
                    continue
                async with one_statement:
                    for statement in EXPIRE:
                        await conn.execute(statement, f"saga:{resource}")
                assert await _pass(postgres_url, resource, service) == 0
                return killed_in(journal)
            return None

    tried = await asyncio.gather(*(crash(gap) for gap in range(min(wholes))))

    # Every gap that every whole pass has.
    certain = min(wholes)
    assert certain >= SHORTEST_PASS, wholes
    assert tried[:certain] == list(range(certain)), "a gap was not tried"
    calls = _by_saga(service.ledger)
    rows = await conn.fetch("SELECT resource, business_key, id, state FROM marty.saga_instance")
    for resource, business_key, instance, state in rows:
        assert state == EXPECTED[business_key], (resource, business_key)
        done = calls[str(instance)]
        for key in {call["key"] for call in done}:
            assert len({call["body"] for call in done if call["key"] == key}) == 1, "a repeated call has the same bytes"
        shown = await saga_instance.get(conn, resource, instance)
        assert shown is not None
        lines = history(load(shown.definition), {}, shown.entries).lines
        _check_undo([line for line in lines if line.event == CALL], done, business_key)


def _check_undo(lines: Sequence[Any], done: Sequence[dict[str, Any]], business_key: str) -> None:
    """Undos were called one by one, in the reverse of completion, when no outcome was open any more."""
    succeeded = {
        line.step: line.at_ms + (line.duration_ms or 0)
        for line in lines
        if not line.undo and line.outcome == "succeeded"
    }
    undone = list(dict.fromkeys(line.step for line in lines if line.undo))
    if business_key == "order-0":
        assert (set(succeeded), undone) == ({"check", "reserve", "charge", "confirm"}, [])
        return
    # What was refused after a crash had left it in doubt is undone on top.
    certain = [step for step in undone if step in succeeded]
    assert set(certain) == set(succeeded)
    assert [succeeded[step] for step in certain] == sorted((succeeded[step] for step in certain), reverse=True)
    first_undo = next(line.at_ms for line in lines if line.undo)
    assert all(line.outcome != "in flight" and line.at_ms <= first_undo for line in lines if not line.undo)
    names = {"check": "uncheck", "reserve": "release", "charge": "refund"}
    acted = list(dict.fromkeys(call["action"] for call in done if call["action"] in names.values()))
    assert acted == [names[step] for step in undone]


async def _pass(url: str, resource: str, service: Service, journal: Path | None = None, gap: int | None = None) -> int:
    arguments = [url, resource, str(service.port), str(journal or "-"), *([str(gap)] if gap is not None else [])]
    log = service.ledger.with_name(f"{resource.replace('/', '-')}.log")
    async with running(["-m", "tests.integration.saga.group_pass", *arguments], log) as process:
        code = await process.wait(60)
    assert code in {0, -9}, process.output()
    return code
