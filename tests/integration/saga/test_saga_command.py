"""`marty saga list`, `get`, `timeline` and `start` on a real database."""

from pathlib import Path

import asyncpg
import pytest

from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, Failing, Gated, Shop, ended, engine, pool_of
from tests.support.processes import running

pytestmark = pytest.mark.postgres


class Declining(Failing):
    """Payments are refused, and the undo that follows fails: instances park."""

    def __init__(self) -> None:
        super().__init__({"release"})
        self._refuse = lambda _: True


@pytest.fixture
async def past(postgres_url: str, conn: asyncpg.Connection) -> str:
    """Three instances that ended and two that parked; the URL of their database."""
    async with pool_of(postgres_url) as pool:
        async with engine(pool, Shop(refuse=lambda context: context["order"] == 2).caller()) as it:
            for number in range(3):
                await it.engine.start(f"order-{number}", {"order": number})
            await ended(conn, 3)
        async with engine(pool, Declining().caller()) as it:
            for number in (3, 4):
                await it.engine.start(f"order-{number}", {"order": number})
            await ended(conn, 5)
    return postgres_url


async def test_the_list_shows_where_each_instance_stands(past: str) -> None:
    done = await marty(past, "list", "orders")

    header, *rows = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert header.split() == ["ID", "KEY", "STATE", "STEP", "SINCE", "ERROR"]
    assert [row.split()[1:3] for row in rows] == [
        ["order-4", "Parked"],
        ["order-3", "Parked"],
        ["order-2", "Compensated"],
        ["order-1", "Completed"],
        ["order-0", "Completed"],
    ]
    assert "undo of reserve" in rows[0]
    assert "the answer was lost" in rows[0]


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        (("--state", "parked"), ["order-4", "order-3"]),
        (("--state", "completed,compensated"), ["order-2", "order-1", "order-0"]),
        (("--step", "reserve"), ["order-4", "order-3"]),
        (("--step", "charge"), []),
        (("--key", "order-1"), ["order-1"]),
        (("--key", "*-4"), ["order-4"]),
        (("--key", "order_1"), []),
        (("--error", "DECLINED"), ["order-4", "order-3", "order-2"]),
        (("--since", "1h", "--state", "parked"), ["order-4", "order-3"]),
        (("--before", "1h"), []),
    ],
)
async def test_filters_choose(past: str, filters: tuple[str, ...], keys: list[str]) -> None:
    done = await marty(past, "list", RESOURCE, *filters, "-o", "json")

    assert done.code == 0, done.err
    assert [it["business_key"] for it in done.json["instances"]] == keys


async def test_pages_follow_each_other(past: str) -> None:
    first = await marty(past, "list", "--limit", "2", "-o", "json")
    second = await marty(past, "list", "--limit", "2", "--after", first.json["next"], "-o", "json")
    last = await marty(past, "list", "--limit", "2", "--after", second.json["next"], "-o", "json")

    keys = [it["business_key"] for page in (first, second, last) for it in page.json["instances"]]
    assert keys == [f"order-{number}" for number in (4, 3, 2, 1, 0)]
    assert last.json["next"] is None
    assert "there are more: --after " in (await marty(past, "list", "--limit", "2")).err


async def test_ids_may_be_shortened_as_the_list_shows_them(past: str) -> None:
    listed = await marty(past, "list", "orders", "--key", "order-2")
    short = listed.out.splitlines()[1].split()[0]

    shown = await marty(past, "get", short)

    assert shown.code == 0, shown.err
    assert "Key:       order-2\nState:     Compensated\n" in shown.out
    assert '"order": 2' in shown.out
    ambiguous = await marty(past, "get", short.partition("…")[0])
    assert ambiguous.code == 1
    assert "names several instances: " in ambiguous.err
    assert (await marty(past, "get", "018f3c7a-9d10-7abc-8def-0123456789ab")).code == 1
    assert (await marty(past, "get", "order-2")).code == 2


async def test_the_timeline_tells_every_attempt(past: str) -> None:
    listed = await marty(past, "list", "orders", "--key", "order-3", "-o", "json")
    instance = listed.json["instances"][0]["saga_id"]

    lines = (await marty(past, "timeline", instance, "-o", "json")).json
    text = await marty(past, "timeline", instance)

    calls = [(it["step"], it["direction"], it["attempt"], it["outcome"]) for it in lines if it["event"] == "call"]
    assert calls == [
        ("reserve", "do", 1, "succeeded"),
        ("charge", "do", 1, "refused"),
        ("reserve", "undo", 1, "unknown"),
        ("reserve", "undo", 2, "unknown"),
        ("reserve", "undo", 3, "unknown"),
    ]
    assert all(it["duration_ms"] >= 0 for it in lines if it["event"] == "call")
    assert [it["event"] for it in lines if it["event"] != "call"] == ["started", "compensating", "parked"]
    assert "reserve do    done in " in text.out
    assert "failed 3 times until " in text.out
    assert "outcome unknown: " in text.out
    assert text.out.rstrip().endswith("waits for a person: marty saga retry | skip-step | resume | cancel")


async def test_an_instance_in_flight_shows_its_step(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Gated()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as it:
        receipt = await it.engine.start("order-1", {"order": 1})

        listed = await marty(postgres_url, "list", "--step", "reserve", "-o", "json")
        text = await marty(postgres_url, "timeline", receipt.saga_id)
        shop.gate.set()

    assert [it["saga_id"] for it in listed.json["instances"]] == [receipt.saga_id]
    assert "reserve do  in flight" in text.out


async def test_a_start_is_idempotent_and_taken_up_by_the_workers(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller()):
        dry = await marty(postgres_url, "start", "orders", "--key", "order-1", "--input", '{"order": 1}', "--dry-run")
        first = await marty(postgres_url, "start", "orders", "--key", "order-1", "--input", '{"order": 1}')
        again = await marty(postgres_url, "start", "orders", "--key", "order-1", "--input", '{"order": 1}')
        await ended(conn, 1)

    assert (dry.code, first.code, again.code) == (0, 0, 0), first.err
    assert "Would start" in dry.out
    assert first.out.startswith("Started ")
    assert "Nothing was started" in again.out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("list", "nothing"), 1, "no such saga ever ran on this database: it knows shop/orders"),
        (("list", "--state", "sleeping"), 2, "--state: 'sleeping' is none"),
        (("list", "--since", "soon"), 2, "--since: "),
        (("migrate", "orders", "--from", "a", "--to", "b\udcff"), 2, "--to: 'b\\udcff' has a NUL or a lone surrogate"),
        (("migrate", "orders", "--from", "a\udcff", "--to", "b"), 2, "--from: 'a\\udcff' has a NUL"),
        (("migrate", "orders", "--from", "a", "--to", "b", "--map", "a\udcff=b"), 2, "--map: "),
        (("skip-step", "--state", "parked", "--stuck-step", "\udcff"), 2, "--stuck-step: "),
        *((("retry", "--state", "parked", "--wait", wait), 2, f"--wait {wait}") for wait in ("nan", "inf", "-5.0")),
        (("retry", "--state", "parked", "--as", ""), 2, "--as: is no name: say who asks"),
        (
            ("edit-context", "--state", "parked", "--patch", '{"a":' + "[" * 900 + "]" * 900 + "}"),
            2,
            "--patch: objects",
        ),
        (("timeline", "018f"), 2, "give at least the first 8"),
        (("start", "orders", "--key", "a", "--input", "{"), 2, "--input: is no JSON"),
        (("start", "orders", "--key", "a", "--input", "[]"), 2, "--input: is a list"),
        (("start", "orders", "--key", "a", "--input", "@/nowhere.json"), 2, "name a file of JSON"),
        (("start", "orders", "--key", "", "--input", "{}"), 2, "business_key: "),
        (("start", "orders", "--key", "a", "--input", '{"context": 1}'), 2, "context: "),
    ],
)
async def test_what_is_wrong_is_told_on_stderr_with_an_exit_code(
    past: str, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = await marty(past, *arguments)

    assert (done.code, done.out) == (code, "")
    assert text in done.err


async def test_a_database_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    environment = {"MARTY_DATABASE_URL": "postgresql://user:pa55word@127.0.0.1:1/nothing"}

    async with running(["-m", "marty_msf.cli", "saga", "list"], tmp_path / "log", environment) as process:
        code = await process.wait()

    assert code == 1
    assert "does not answer" in process.output()
    assert "pa55word" not in process.output()
    assert "Traceback" not in process.output()


async def test_the_program_itself_lists(past: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(["-m", "marty_msf.cli", "saga", "list", "orders"], log, {"MARTY_DATABASE_URL": past}) as process:
        assert await process.wait() == 0, process.output()

    assert len(process.output().splitlines()) == 6
