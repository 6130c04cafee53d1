"""Semantic locks on a real Postgres: sagas that work on the same thing do it one after the other, whatever happens."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from marty_msf.core.saga.definition import load, stored_form
from marty_msf.core.saga.events import LockRefused, Unlock
from marty_msf.core.saga.instance import Acquire, Instance, State
from marty_msf.core.saga.journal import encode
from marty_msf.store import leases, saga_verb
from marty_msf.worker.saga.calling.python_caller import StepCall
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.locks import Locks
from marty_msf.worker.saga.memory import Live, Memory
from tests.integration.saga.lock_pass import LEDGER, ONE_ORDER, caller, interleaved, saga
from tests.integration.saga.sagas import RESOURCE, Failing, Gated, Shop, engine, pool_of, spec, states, told
from tests.integration.saga.test_crashes import EXPIRE
from tests.support.processes import running
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

OTHER = "shop/returns"
LOCKED = saga(ONE_ORDER)
ROWS = "SELECT count(*) FROM marty.saga_lock"
QUEUED = "SELECT count(*) FROM marty.saga_lock WHERE instance::text = $1 AND granted IS NULL"
STATE = "SELECT state FROM marty.saga_instance WHERE id::text = $1"
ERROR = "SELECT error FROM marty.saga_instance WHERE id::text = $1"


async def start(running: Any, key: str, orders: str = "7", **context: Any) -> str:
    receipt = await running.engine.start(key, {"orders": orders, **context})
    saga_id: str = receipt.saga_id
    return saga_id


async def becomes(conn: asyncpg.Connection, saga_id: str, state: str, seconds: float = 20) -> None:
    await eventually(lambda: conn.fetchval(STATE, saga_id), lambda found: found == state, seconds=seconds)


async def queues(conn: asyncpg.Connection, saga_id: str) -> None:
    """Until it stands in the queue, which it does a moment after its state says that it waits."""
    await eventually(lambda: conn.fetchval(QUEUED, saga_id), lambda count: count > 0)


async def all_ended(conn: asyncpg.Connection, count: int, seconds: float = 30) -> Counter[str]:
    def done(found: Counter[str]) -> bool:
        return sum(found[it] for it in ("Completed", "Compensated", "Failed", "Cancelled")) == count

    return await eventually(lambda: states(conn), done, seconds=seconds)


async def nothing_is_held(conn: asyncpg.Connection) -> None:
    await eventually(lambda: conn.fetchval(ROWS), lambda count: count == 0)


async def test_without_a_lock_sagas_interleave_on_one_order(postgres_url: str, conn: asyncpg.Connection) -> None:
    """The naive version, which the other tests would find."""
    await conn.execute(LEDGER)
    async with pool_of(postgres_url) as pool, engine(pool, caller(pool), saga(None)) as it:
        await asyncio.gather(*(start(it, f"change-{n}") for n in range(10)))
        await all_ended(conn, 10)
    assert await interleaved(conn) > 0


async def test_with_it_they_never_do_also_when_one_of_two_workers_is_killed(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    await conn.execute(LEDGER)
    sagas = 60
    async with pool_of(postgres_url) as pool, engine(pool, caller(pool), LOCKED, holder="survivor") as it:
        arguments = ["-m", "tests.integration.saga.lock_pass", postgres_url]
        async with running(arguments, tmp_path / "log") as other:
            await eventually(told(lambda: len(it.engine.memory.epochs) == 32), seconds=30)
            await asyncio.gather(*(start(it, f"change-{n}", str(n % 3), decline=n % 4 == 0) for n in range(sagas)))
            await eventually(lambda: conn.fetchval("SELECT count(*) FROM public.ledger"), lambda count: count > sagas)
            await other.kill()
        for statement in EXPIRE:
            await conn.execute(f"{statement} AND holder <> 'survivor'", f"saga:{RESOURCE}")
        assert await all_ended(conn, sagas, seconds=60) == {"Completed": 45, "Compensated": 15}
        await nothing_is_held(conn)
    assert await interleaved(conn) == 0


async def test_several_keys_in_any_order_neither_deadlock_nor_interleave(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    await conn.execute(LEDGER)
    locked = saga({"keys": ["context.one", "context.other"]})
    pairs = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "a")] * 5
    async with (
        pool_of(postgres_url, 12) as pool,
        engine(pool, caller(pool), locked) as it,
        engine(pool, caller(pool), locked) as two,
    ):
        await eventually(told(lambda: min(len(it.engine.memory.epochs), len(two.engine.memory.epochs)) == 32))
        starts = [
            start((it, two)[n % 2], f"move-{n}", f"{one} {other}", one=one, other=other)
            for n, (one, other) in enumerate(pairs)
        ]
        await asyncio.gather(*starts)
        assert await all_ended(conn, len(pairs)) == {"Completed": len(pairs)}
        await nothing_is_held(conn)
    assert await interleaved(conn) == 0


async def test_who_asked_first_is_served_first_and_every_end_hands_over(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    """Completed, Compensated, Failed and Cancelled, each one while others wait behind it."""
    shop = Gated()
    shop._refuse = lambda context: context.get("decline", False)
    first = spec(
        {"name": "reserve", "compensation": "release", "condition": "!context.refused"},
        {"name": "charge"},
        {"name": "confirm"},
        semanticLock=ONE_ORDER,
    )
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), first) as it:
        contexts: list[Mapping[str, Any]] = [
            {"refused": False},
            {"refused": False, "decline": True},
            {"refused": True, "decline": True},
            {"refused": False},
            {"refused": False},
        ]
        ids = []
        for number, context in enumerate(contexts):
            ids.append(await start(it, f"change-{number}", **context))
            await eventually(lambda: conn.fetchval(ROWS), partial(eq, number + 1))
        assert await states(conn) == {"Running": 1, "Waiting": 4}
        cancelled = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE id::text = $1", ids[3])
        await saga_verb.ask(conn, [cancelled], "cancel", b"{}", "ann")
        await becomes(conn, ids[3], "Cancelled")
        shop.gate.set()
        await all_ended(conn, 5)
        await nothing_is_held(conn)

    assert [await conn.fetchval(STATE, it) for it in ids] == [
        "Completed", "Compensated", "Failed", "Cancelled", "Completed",
    ]  # fmt: skip
    assert list(shop.order) == [ids[0], ids[1], ids[2], ids[4]]


async def test_a_conflict_that_is_rejected_ends_as_failed_with_the_holders_id(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    async with (
        pool_of(postgres_url) as pool,
        engine(pool, shop.caller(), saga({**ONE_ORDER, "onConflict": "Reject"})) as it,
    ):
        holder = await start(it, "change-1")
        await becomes(conn, holder, "Running")
        refused = await start(it, "change-2")
        elsewhere = await start(it, "change-3", orders="8")
        await becomes(conn, refused, "Failed")
        shop.gate.set()
        await becomes(conn, holder, "Completed")
        await becomes(conn, elsewhere, "Completed")
        await becomes(conn, await start(it, "change-4"), "Completed")
    assert holder in await conn.fetchval(ERROR, refused)
    assert refused not in shop.order


async def test_a_waiter_whose_deadline_passes_fails_and_blocks_nobody(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    hasty = spec({"name": "reserve"}, timeoutSeconds=1, semanticLock=ONE_ORDER)
    async with (
        pool_of(postgres_url, 12) as pool,
        engine(pool, shop.caller(), LOCKED) as it,
        engine(pool, shop.caller(), hasty, resource=OTHER) as two,
    ):
        holder = await start(it, "change-1")
        await becomes(conn, holder, "Running")
        late = await start(two, "return-1")
        last = await start(it, "change-2")
        await becomes(conn, late, "Failed")
        shop.gate.set()
        await becomes(conn, last, "Completed")
        await nothing_is_held(conn)
    assert "before it got its semantic lock" in await conn.fetchval(ERROR, late)


async def test_an_instance_that_ended_holds_nothing_even_if_its_worker_was_killed_in_that_moment(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    async with pool_of(postgres_url, 12) as pool, engine(pool, Shop().caller(), LOCKED, resource=OTHER) as it:
        async with engine(pool, shop.caller(), LOCKED) as one:
            holder = await start(one, "change-1")
            await becomes(conn, holder, "Running")
            waiter = await start(it, "return-1")
            await queues(conn, waiter)
            await one.crash()
        # Its last wave was committed, and nothing after it.
        await conn.execute(
            "UPDATE marty.saga_instance SET state = 'Completed', ended_at = now() WHERE id::text = $1", holder
        )
        await becomes(conn, waiter, "Completed")


ABANDON = """
WITH gone AS (DELETE FROM marty.worker WHERE scope = $1)
UPDATE marty.lease SET expires_at = now() - interval '1 hour' WHERE scope = $1
"""
SUSPECTED = "SELECT suspected_at FROM marty.saga_lock WHERE instance::text = $1"
EPOCHS = "SELECT sum(epoch) FROM marty.lease WHERE scope = $1"


async def test_a_lock_that_nobody_worked_under_for_its_lease_goes_over_and_its_former_holder_parks(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Gated()
    async with pool_of(postgres_url, 12) as pool, engine(pool, Shop().caller(), LOCKED, resource=OTHER) as it:
        async with engine(pool, shop.caller(), LOCKED) as one:
            holder = await start(one, "change-1")
            await becomes(conn, holder, "Running")
            waiter = await start(it, "return-1")
            await queues(conn, waiter)
            await one.crash()
        epochs = await conn.fetchval(EPOCHS, f"saga:{RESOURCE}")
        await conn.execute(ABANDON, f"saga:{RESOURCE}")
        # Suspected first, so that its owners can come back.
        await eventually(lambda: conn.fetchval(SUSPECTED, holder))
        assert await conn.fetchval(STATE, waiter) == "Waiting"
        await conn.execute("UPDATE marty.saga_lock SET suspected_at = suspected_at - interval '11 seconds'")
        await becomes(conn, waiter, "Completed")
        assert await conn.fetchval(EPOCHS, f"saga:{RESOURCE}") == epochs + 1, "a former owner could still write"

        shop.gate.set()
        async with engine(pool, shop.caller(), LOCKED) as one:
            await becomes(conn, holder, "Parked")
            assert "its semantic lock went to another instance" in await conn.fetchval(ERROR, holder)
            assert shop.order[holder] == ["reserve"], "it went on without its lock"
            instance = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE id::text = $1", holder)
            await saga_verb.ask(conn, [instance], "resume", b"{}", "ann")
            await becomes(conn, holder, "Completed")


class Stuck:
    """A parked instance that holds the lock of order 7, and one of the same saga that waits for it."""

    def __init__(self, holder: str, waiter: str, shop: Failing, broken: set[str]) -> None:
        self.holder = holder
        self.waiter = waiter
        self.shop = shop
        self.broken = broken


async def stuck(running: Any, conn: asyncpg.Connection, shop: Failing, broken: set[str]) -> Stuck:
    holder = await start(running, "change-1", decline=True)
    await becomes(conn, holder, "Parked")
    waiter = await start(running, "change-2")
    await queues(conn, waiter)
    return Stuck(holder, waiter, shop, broken)


def failing() -> tuple[Failing, set[str]]:
    broken = {"release"}
    shop = Failing(broken)
    shop._refuse = lambda context: context.get("decline", False)
    return shop, broken


async def test_a_parked_instance_keeps_its_lock_until_a_person_decides(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop, broken = failing()
    async with pool_of(postgres_url) as pool:
        async with engine(pool, shop.caller(), LOCKED) as it:
            found = await stuck(it, conn, shop, broken)
        await conn.execute(ABANDON, f"saga:{RESOURCE}")
        await conn.execute("UPDATE marty.saga_lock SET suspected_at = now() - interval '30 minutes'")
        async with engine(pool, shop.caller(), LOCKED) as it:
            # Somebody else is served meanwhile, so waiting was looked at again and again.
            for number in range(3):
                await becomes(conn, await start(it, f"else-{number}", orders=f"{number}0"), "Completed")
            assert await conn.fetchval(STATE, found.waiter) == "Waiting"
            broken.clear()
            instance = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE id::text = $1", found.holder)
            await saga_verb.ask(conn, [instance], "resume", b"{}", "ann")
            await becomes(conn, found.waiter, "Completed")
            assert await conn.fetchval(STATE, found.holder) == "Compensated"


async def test_an_unlocked_instance_hands_over_and_goes_on_only_with_the_lock_again(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop, broken = failing()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), LOCKED) as it:
        found = await stuck(it, conn, shop, broken)
        instance = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE id::text = $1", found.holder)
        await saga_verb.ask(conn, [instance], "unlock", b"{}", "ann")
        await becomes(conn, found.waiter, "Completed")
        assert await conn.fetchval(STATE, found.holder) == "Parked"

        gate, served = asyncio.Event(), shop.act

        async def gated(call: StepCall, action: str) -> Mapping[str, Any] | None:
            if call.context.get("slow"):
                await gate.wait()
            return await served(call, action)

        shop.act = gated  # type: ignore[method-assign]
        broken.clear()
        holder = await start(it, "change-3", slow=True)
        await becomes(conn, holder, "Running")
        await saga_verb.ask(conn, [instance], "resume", b"{}", "ann")
        await becomes(conn, found.holder, "Waiting")
        gate.set()
        await becomes(conn, found.holder, "Compensated")
        await nothing_is_held(conn)


async def test_a_worker_that_was_killed_in_the_middle_of_an_unlock_has_it_finished_by_the_next_one(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop, broken = failing()
    async with pool_of(postgres_url) as pool:
        async with engine(pool, shop.caller(), LOCKED) as it:
            found = await stuck(it, conn, shop, broken)
        instance = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE id::text = $1", found.holder)
        (number,) = await saga_verb.ask(conn, [instance], "unlock", b"{}", "ann")
        # The event is durable, the lock not handed over.
        await conn.execute(
            "INSERT INTO marty.saga_journal (id, seq, entry) SELECT $1, max(seq) + 1, $2 FROM marty.saga_journal WHERE id = $1",
            instance, encode(Unlock("ann", number), now_ms()),
        )  # fmt: skip
        async with engine(pool, shop.caller(), LOCKED):
            await becomes(conn, found.waiter, "Completed")
            await eventually(lambda: conn.fetchval("SELECT done FROM marty.saga_verb"))


async def test_a_running_instance_is_not_unlocked(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Gated()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), LOCKED) as it:
        holder = await start(it, "change-1")
        await becomes(conn, holder, "Running")
        instance = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE id::text = $1", holder)
        await saga_verb.ask(conn, [instance], "unlock", b"{}", "ann")
        answer = "SELECT answer FROM marty.saga_verb WHERE NOT done"
        assert "pause it first" in await eventually(lambda: conn.fetchval(answer))
        assert await conn.fetchval("SELECT count(*) FROM marty.saga_lock WHERE granted IS NOT NULL") == 1
        shop.gate.set()
        await becomes(conn, holder, "Completed")


async def test_a_saga_without_a_lock_never_looks_for_one(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller()) as it:
        await becomes(conn, await start(it, "order-1"), "Completed")
    assert await conn.fetchval("SELECT is_called FROM marty.saga_lock_order") is False


async def test_a_key_that_is_none_parks_the_instance(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with (
        pool_of(postgres_url) as pool,
        engine(pool, Shop().caller(), saga({"key": "context.customer"})) as it,
    ):
        parked = await start(it, "order-1")
        await becomes(conn, parked, "Parked")
    assert "let it give text or an integer" in await conn.fetchval(ERROR, parked)


async def test_the_database_itself_knows_one_holder_of_a_key_only(conn: asyncpg.Connection) -> None:
    row = (
        "INSERT INTO marty.saga_lock (scope, key, ticket, instance, resource, lane, lease_seconds, granted, held_at)"
        f" VALUES ('shop', 'order:7', $1, gen_random_uuid(), '{RESOURCE}', 0, 60, $1, now())"
    )
    await conn.execute(row, 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await conn.execute(row, 2)


BLOCKED = """
SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
                WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted)
"""


async def test_an_instance_that_ends_while_it_is_queued_leaves_nothing_behind(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    """Its deadline passes between the question and the answer."""
    told: list[Any] = []
    row = (
        "INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state)"
        f" VALUES (gen_random_uuid(), '{RESOURCE}', 3, 'r', $1, $2) RETURNING id"
    )
    definition = load(stored_form(saga({**ONE_ORDER, "onConflict": "Reject"})))
    memory = Memory()
    memory.open_lane(3, (await leases.claim(conn, f"saga:{RESOURCE}", "me", [3], 60)).held[3])
    lives = []
    for number in range(3):
        id_ = await conn.fetchval(row, str(number), "Waiting")
        lives.append(Live(id_, str(id_), 3, definition, 0, Instance({}, State.WAITING)))
        memory.add(lives[-1])
    async with pool_of(postgres_url) as pool, pool.acquire() as own:
        locks = Locks(pool, RESOURCE, "me", memory, lambda live, event: told.append((live, event)))
        for live in lives:
            locks.acquire(live, Acquire(("order:7",), reject=True))
        async with conn.transaction():
            await conn.execute("SELECT marty.lock_saga_locks('shop')")
            turn = asyncio.create_task(locks.run_once(own))
            await eventually(lambda: conn.fetchval(BLOCKED))
            for live in lives[:2]:
                memory.remove(live)
                live.instance = Instance({}, State.FAILED)
                locks.ended(live)
        await turn
        await locks.run_once(own)

    assert told == [(lives[2], LockRefused(lives[0].text))]
    assert await conn.fetchval(ROWS) == 0
