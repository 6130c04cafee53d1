"""`marty saga archive`: every ended instance with its past, one a line, in a file that is whole or not there."""

import gzip
import json
import stat
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from marty_msf.worker.saga.surface import archiving
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, Failing, Gated, Shop, ended, engine, pool_of

pytestmark = pytest.mark.postgres


class Declining(Failing):
    """Payments are refused, and the undo that follows fails: instances park."""

    def __init__(self) -> None:
        super().__init__({"release"})
        self._refuse = lambda _: True


@pytest.fixture
async def past(postgres_url: str, conn: asyncpg.Connection) -> str:
    """Four instances that ended, the third of them undone, and one that parked; the URL of their database."""
    async with pool_of(postgres_url) as pool:
        async with engine(pool, Shop(refuse=lambda context: context["order"] == 2).caller()) as it:
            for number in range(4):
                await it.engine.start(f"order-{number}", {"order": number})
            await ended(conn, 4)
        async with engine(pool, Declining().caller()) as it:
            await it.engine.start("order-4", {"order": 4})
            await ended(conn, 5)
    return postgres_url


def names(directory: Path) -> list[str]:
    return sorted(it.name for it in directory.iterdir())


def lines(text: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_an_archive_has_each_ended_instance_with_context_and_timeline(
    past: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "PAGE_LIMIT", 3)
    file = tmp_path / "orders.ndjson"

    done = await marty(past, "archive", "orders", "--to", str(file), "-o", "json")

    assert done.code == 0, done.err
    assert done.json == {
        "saga": RESOURCE,
        "instances": 4,
        "states": {"Completed": 3, "Compensated": 1},
        "unreadable": 0,
        "file": str(file),
    }
    archive = lines(file.read_text())
    assert [(it["business_key"], it["state"]) for it in archive] == [
        ("order-0", "Completed"),
        ("order-1", "Completed"),
        ("order-2", "Compensated"),
        ("order-3", "Completed"),
    ]
    assert archive[0]["started_with"] == {"order": 0}
    assert archive[0]["context"] == {"order": 0, "reserve": "reserve-0"}
    calls = [(it["step"], it["direction"]) for it in archive[2]["timeline"] if it["event"] == "call"]
    assert calls == [("reserve", "do"), ("charge", "do"), ("reserve", "undo")]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names(tmp_path) == ["orders.ndjson"]


async def test_a_name_that_ends_with_gz_is_compressed_and_filters_choose(past: str, tmp_path: Path) -> None:
    file = tmp_path / "orders.ndjson.gz"

    done = await marty(past, "archive", RESOURCE, "--state", "compensated", "--since", "1h", "--to", str(file))

    assert done.code == 0, done.err
    assert done.out == f"shop/orders: 1 instance (1 Compensated) archived in {file}\n"
    assert [it["business_key"] for it in lines(gzip.decompress(file.read_bytes()))] == ["order-2"]
    none = await marty(past, "archive", RESOURCE, "--before", "1h", "--to", "-", "-o", "json")
    assert (none.code, none.out, json.loads(none.err)["instances"]) == (0, "", 0)


async def test_it_goes_to_stdout_while_workers_run(past: str) -> None:
    shop = Gated()
    async with pool_of(past) as pool, engine(pool, shop.caller()) as it:
        await it.engine.start("order-9", {"order": 9})
        done = await marty(past, "archive", "orders", "--to", "-")
        shop.gate.set()

    assert [it["business_key"] for it in lines(done.out)] == [f"order-{number}" for number in range(4)]
    assert done.err == "shop/orders: 4 instances (1 Compensated, 3 Completed) archived\n"


async def test_an_instance_that_cannot_be_read_is_archived_as_it_is_beside_the_others(
    past: str, conn: asyncpg.Connection
) -> None:
    torn = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE business_key = 'order-1'")
    await conn.execute("UPDATE marty.saga_journal SET entry = 'torn' WHERE id = $1 AND seq = 2", torn)

    done = await marty(past, "archive", "orders", "--to", "-")

    archive = {it["business_key"]: it for it in lines(done.out)}
    assert done.code == 0, done.err
    assert len(archive) == 4
    assert archive["order-1"]["unreadable"]
    assert archive["order-1"]["journal_base64"][1] == "dG9ybg=="
    assert "1 of them cannot be read" in done.err


async def test_a_file_that_is_there_stays_and_an_archive_that_fails_leaves_none(past: str, tmp_path: Path) -> None:
    there, other = tmp_path / "there", tmp_path / "other"
    there.write_text("mine")
    (tmp_path / "other.part").write_text("of another run")

    refused = await marty(past, "archive", "orders", "--to", str(there))
    busy = await marty(past, "archive", "orders", "--to", str(other))
    nowhere = await marty(past, "archive", "orders", "--to", str(tmp_path / "no" / "where"))
    unknown = await marty(past, "archive", "nothing", "--to", str(tmp_path / "new"))

    assert (refused.code, busy.code, nowhere.code, unknown.code) == (1, 1, 1, 1)
    assert "exists: give another name" in refused.err
    assert "another archive writes it" in busy.err
    assert "cannot be written: No such file or directory" in nowhere.err
    assert there.read_text() == "mine"
    assert names(tmp_path) == ["other.part", "there"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--state", "parked"), "--state: Parked: such instances have not ended"),
        (("--state", "sleeping"), "--state: 'sleeping' is none"),
        (("--before", "soon"), "--before: 'soon' is neither an age nor a time"),
        (("--since", "999999999d"), "--since: "),
    ],
)
async def test_wrong_filters_are_told(past: str, arguments: tuple[str, ...], text: str) -> None:
    done = await marty(past, "archive", "orders", "--to", "-", *arguments)

    assert (done.code, done.out) == (2, "")
    assert text in done.err
