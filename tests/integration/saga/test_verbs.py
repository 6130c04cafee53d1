"""People's verbs on instances, through the command line and over HTTP, against a running engine."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import asyncpg
import pytest

from marty_msf.store import saga_verb
from marty_msf.worker.saga.calling.python_caller import StepCall
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import Failing, Gated, Running, Shop, ended, engine, pool_of, states
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres


class Stuck(NamedTuple):
    """An instance that parked because its undo fails; `broken` is what fails: empty it to mend the service."""

    url: str
    saga_id: str
    shop: Failing
    broken: set[str]
    running: Running


@pytest.fixture
async def stuck(postgres_url: str, conn: asyncpg.Connection) -> AsyncIterator[Stuck]:
    broken = {"release"}
    shop = Failing(broken)
    shop._refuse = lambda _: True
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as it:
        receipt = await it.engine.start("order-1", {"order": 1, "total": 10})
        await ended(conn, 1)
        yield Stuck(postgres_url, receipt.saga_id, shop, broken, it)


class Saying(Failing):
    """Its undo fails with these words."""

    def __init__(self, words: str) -> None:
        super().__init__(())
        self._words = words

    async def act(self, call: StepCall, action: str) -> Mapping[str, Any] | None:
        answer = await super().act(call, action)
        if action == "release":
            raise OSError(self._words)
        return answer


async def state(conn: asyncpg.Connection, wanted: str) -> None:
    await eventually(lambda: states(conn), lambda found: found[wanted] == 1)


def keys(stuck: Stuck, undo_of: str) -> list[str]:
    return sorted(key.partition(":")[2] for key in stuck.shop.calls if f":{undo_of}:undo" in key)


async def test_resume_goes_on_with_the_same_key(stuck: Stuck, conn: asyncpg.Connection) -> None:
    stuck.broken.clear()

    done = await marty(stuck.url, "resume", stuck.saga_id, "--yes", "--as", "ann")

    await state(conn, "Compensated")
    assert (done.code, done.err) == (0, "")
    assert "order-1  resume done: " in done.out
    assert keys(stuck, "reserve") == ["reserve:undo:1"]


async def test_retry_is_a_new_call(stuck: Stuck, conn: asyncpg.Connection) -> None:
    stuck.broken.clear()

    assert (await marty(stuck.url, "retry", stuck.saga_id, "--yes")).code == 0

    await state(conn, "Compensated")
    assert keys(stuck, "reserve") == ["reserve:undo:1", "reserve:undo:2"]


async def test_a_step_that_a_person_handled_is_skipped(stuck: Stuck, conn: asyncpg.Connection) -> None:
    calls = stuck.shop.calls.total()

    assert (await marty(stuck.url, "skip-step", stuck.saga_id, "--yes")).code == 0

    await state(conn, "Compensated")
    assert stuck.shop.calls.total() == calls


async def test_an_edited_context_stays_parked_and_is_kept(stuck: Stuck, conn: asyncpg.Connection) -> None:
    patch = '{"total": 7, "order": null, "note": {"by": "ann"}}'

    done = await marty(stuck.url, "edit-context", stuck.saga_id, "--patch", patch, "--yes")

    assert done.code == 0, done.err
    shown = (await marty(stuck.url, "get", stuck.saga_id, "-o", "json")).json
    assert shown["state"] == "Parked"
    assert shown["context"] == {"total": 7, "note": {"by": "ann"}, "reserve": "reserve-1"}
    assert len(stuck.running.engine.memory) == 0


async def test_every_verb_is_audited_and_stands_in_the_timeline(stuck: Stuck, conn: asyncpg.Connection) -> None:
    await marty(stuck.url, "retry", stuck.saga_id, "--yes", "--as", "ann")
    await state(conn, "Parked")
    instance = await conn.fetchval("SELECT id FROM marty.saga_instance")
    numbers = await saga_verb.ask(conn, [instance], "pause", b"{}", "bob")
    await eventually(lambda: _done(conn, next(iter(numbers))), lambda done: done is False)

    text = await marty(stuck.url, "timeline", stuck.saga_id)
    rows = await conn.fetch("SELECT asked_by, verb, done FROM marty.saga_verb ORDER BY id")

    assert [tuple(row) for row in rows] == [("ann", "retry", True), ("bob", "pause", False)]
    told = [line.split()[1:4] for line in text.out.splitlines()]
    assert ["retry", "by", "ann"] in told
    assert ["pause", "by", "bob"] in told
    assert "refused: " in text.out


async def test_a_dry_run_changes_nothing(stuck: Stuck, conn: asyncpg.Connection) -> None:
    done = await marty(stuck.url, "skip-step", stuck.saga_id, "--dry-run")

    assert done.code == 0
    assert "EFFECT OF SKIP-STEP" in done.out
    assert "Nothing was changed." in done.out
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_verb") == 0


async def test_without_yes_it_asks_back_and_without_a_terminal_it_refuses(
    stuck: Stuck, conn: asyncpg.Connection
) -> None:
    done = await marty(stuck.url, "cancel", stuck.saga_id, answer="y\n")

    assert done.code in {1, 2}
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_verb") == 0


async def test_a_verb_that_the_state_forbids_is_refused_with_the_remedy(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller()) as it:
        receipt = await it.engine.start("order-1", {"order": 1})
        await ended(conn, 1)
        for verb in (
            ("cancel",),
            ("retry",),
            ("skip-step",),
            ("resume",),
            ("pause",),
            ("edit-context", "--patch", "{}"),
        ):
            done = await marty(postgres_url, verb[0], receipt.saga_id, *verb[1:], "--yes")

            assert (done.code, done.out) == (1, ""), verb
            assert "not possible: " in done.err

            # Asked all the same, by somebody else's program: the owner refuses it too.
            instance = await conn.fetchval("SELECT id FROM marty.saga_instance")
            arguments = b'{"patch": {}}' if verb[0] == "edit-context" else b"{}"
            await saga_verb.ask(conn, [instance], verb[0], arguments, "bob")
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM marty.saga_verb WHERE NOT done"), lambda n: n == 6)
    assert (await states(conn)) == {"Completed": 1}


async def test_a_cancelled_instance_undoes_what_happened(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Gated()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as it:
        receipt = await it.engine.start("order-1", {"order": 1})
        asking = asyncio.create_task(marty(postgres_url, "cancel", receipt.saga_id, "--yes"))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM marty.saga_verb WHERE done"), lambda n: n == 1)
        shop.gate.set()
        done = await asking
        await state(conn, "Cancelled")

    assert done.code == 0, done.err
    assert shop.order[receipt.saga_id] == ["reserve", "release"]


async def test_a_paused_instance_waits_over_a_restart_until_it_is_resumed(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    async with pool_of(postgres_url) as pool:
        async with engine(pool, shop.caller()) as it:
            receipt = await it.engine.start("order-1", {"order": 1})
            assert (await marty(postgres_url, "pause", receipt.saga_id, "--yes")).code == 0
            shop.gate.set()
            await eventually(lambda: conn.fetchval("SELECT max(seq) FROM marty.saga_journal"), lambda seq: seq >= 3)
        async with engine(pool, shop.caller()):
            shown = (await marty(postgres_url, "get", receipt.saga_id, "-o", "json")).json
            assert (shown["paused"], shop.order[receipt.saga_id]) == (True, ["reserve"])

            assert (await marty(postgres_url, "resume", receipt.saga_id, "--yes")).code == 0
            await state(conn, "Completed")

    assert shop.order[receipt.saga_id] == ["reserve", "charge", "confirm"]


async def test_a_bulk_verb_takes_all_that_fit_and_nothing_else(postgres_url: str, conn: asyncpg.Connection) -> None:
    broken = {"release"}
    shop = Failing(broken)
    shop._refuse = lambda context: context["order"] % 2 == 0
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as it:
        for number in range(40):
            await it.engine.start(f"order-{number}", {"order": number})
        await ended(conn, 40)
        broken.clear()
        filters = ("--saga", "orders", "--state", "parked", "--error", "the answer was lost")
        dry = await marty(postgres_url, "retry", *filters, "--dry-run")
        done = await marty(postgres_url, "retry", *filters, "--yes", "-o", "json")
        await eventually(lambda: states(conn), lambda found: found == {"Completed": 20, "Compensated": 20})

    assert "Would retry 20 instances. Nothing was changed." in dry.out
    assert done.code == 0, done.err
    assert [it["done"] for it in done.json] == [True] * 20


async def test_a_verb_that_nobody_answers_stays_and_is_done_later(stuck: Stuck, conn: asyncpg.Connection) -> None:
    await stuck.running.stop()
    stuck.broken.clear()

    done = await marty(stuck.url, "retry", stuck.saga_id, "--yes", "--wait", "0.2")

    assert done.code == 3
    assert "1 instance not answered after 0.2 s: no worker of shop/orders runs now" in done.err
    async with pool_of(stuck.url) as pool, engine(pool, stuck.shop.caller()):
        await state(conn, "Compensated")


async def test_the_verbs_of_one_instance_are_done_in_their_order(stuck: Stuck, conn: asyncpg.Connection) -> None:
    instance = await conn.fetchval("SELECT id FROM marty.saga_instance")
    for total in range(5):
        await saga_verb.ask(conn, [instance], "edit-context", b'{"patch": {"total": %d}}' % total, "ann")

    await eventually(lambda: conn.fetchval("SELECT count(*) FROM marty.saga_verb WHERE done"), lambda done: done == 5)

    shown = (await marty(stuck.url, "get", stuck.saga_id, "-o", "json")).json
    assert shown["context"]["total"] == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("retry",), "give either IDs or filters"),
        (("retry", "018f3c7a", "--state", "parked"), "give either IDs or filters"),
        (("edit-context", "018f3c7a"), "--patch"),
        (("edit-context", "018f3c7a", "--patch", "7"), "--patch: is a int"),
        (("retry", "018f3c7a", "--as", "\n"), "--as: is no name"),
        (("pause", "018f3c7a", "--type", "orders"), "--type means a whole saga"),
    ],
)
async def test_wrong_usage_is_told(postgres_url: str, arguments: tuple[str, ...], text: str) -> None:
    done = await marty(postgres_url, *arguments)

    assert (done.code, done.out) == (2, "")
    assert text in done.err


async def _done(conn: asyncpg.Connection, number: int) -> bool | None:
    (verb,) = await saga_verb.answers(conn, [number])
    return verb.done


@pytest.mark.parametrize(
    ("verb", "arguments", "done"),
    [("edit-context", b'{"patch": {"total": 7}}', True), ("migrate", b'{"from": "x", "to": "b\\u0000"}', False)],
)
async def test_no_text_of_a_service_or_a_person_stops_the_verbs_of_others(
    postgres_url: str, conn: asyncpg.Connection, verb: str, arguments: bytes, done: bool
) -> None:
    """Naive: Postgres keeps no NUL, so that the answer cannot be written, now or after any restart."""
    shop = Saying("bad header \0")
    shop._refuse = lambda _: True
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as it:
        await it.engine.start("order-1", {"order": 1})
        await ended(conn, 1)
        instance = await conn.fetchval("SELECT id FROM marty.saga_instance")
        numbers = await saga_verb.ask(conn, [instance], verb, arguments, "ann")
        await eventually(lambda: _done(conn, next(iter(numbers))), lambda found: found is done)
        assert not it.task.done()
        more = await saga_verb.ask(conn, [instance], "edit-context", b'{"patch": {"total": 8}}', "bob")
        await eventually(lambda: _done(conn, next(iter(more))), lambda found: found is True)
