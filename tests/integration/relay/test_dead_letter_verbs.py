"""What people do to dead letters: each verb on a real database, and two people at once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from marty_msf.core.errors import InvalidDefinition, NotDead, OutboxRestored
from marty_msf.core.lanes import LANES
from marty_msf.core.outbox.cause import cause
from marty_msf.core.outbox.dead_letters import Choice, Edit, Person
from marty_msf.store import outbox, outbox_dead, outbox_dead_verb, outbox_position
from marty_msf.worker.relay.surface import verbs
from tests.support.dead_letters import ERROR, check_counters, held, rows
from tests.support.postgres import blocked

pytestmark = pytest.mark.postgres

ANN, BOB = Person("ann", "the topic takes larger messages now"), Person("bob")
EVERYTHING = Choice()


@pytest.fixture
async def second(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another person's connection."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close(timeout=5)


async def audit(conn: asyncpg.Connection) -> list[tuple[Any, ...]]:
    found = await conn.fetch("SELECT verb, who, why, what, affected FROM marty.outbox_verb ORDER BY id")
    return [(*row[:3], orjson.loads(row[3]), row[4]) for row in found]


async def do(conn: asyncpg.Connection, verb: str, chosen: Choice, person: Person = ANN) -> verbs.Done:
    return await verbs.carry_out(conn, verb, (await verbs.preview(conn, chosen)).chosen, person)


async def test_a_redriven_event_is_tried_again_and_holds_its_aggregate_as_before(conn: asyncpg.Connection) -> None:
    dead = await held(conn, copied=True)
    behind = await held(conn, state="Waiting")

    done = await do(conn, verbs.REDRIVE, Choice(ids=[dead]))

    assert (done.affected, done.refused) == (1, {})
    assert await rows(conn) == {dead: ("Retrying", True), behind: ("Waiting", False)}
    row = await conn.fetchrow("SELECT attempts, copied, in_order FROM marty.outbox_held WHERE id = $1", dead)
    assert tuple(row) == (0, False, True)
    await check_counters(conn)
    assert await audit(conn) == [
        ("redrive", "ann", ANN.why, {"chosen": {"ids": [dead]}, "ids": [dead]}, 1),
    ]


async def test_of_an_aggregate_only_the_first_becomes_due_and_of_events_without_order_all(
    conn: asyncpg.Connection,
) -> None:
    ordered = [await held(conn), await held(conn)]
    free = [await held(conn, in_order=False), await held(conn, aggregate=None), await held(conn, in_order=False)]

    await do(conn, verbs.REDRIVE, EVERYTHING)

    states = await rows(conn)
    assert [states[it] for it in ordered] == [("Retrying", True), ("Retrying", False)]
    assert [states[it] for it in free] == [("Retrying", True)] * 3
    await check_counters(conn)


async def test_an_event_behind_a_dead_one_waits_when_it_is_redriven_alone(conn: asyncpg.Connection) -> None:
    first, later = await held(conn), await held(conn)

    await do(conn, verbs.REDRIVE, Choice(ids=[later]))

    assert await rows(conn) == {first: ("Dead", False), later: ("Retrying", False)}


async def test_a_discarded_event_lets_the_next_of_its_aggregate_go_on(conn: asyncpg.Connection) -> None:
    dead, following, last = await held(conn), await held(conn, state="Waiting"), await held(conn, state="Waiting")
    other = await held(conn, aggregate="a-2", state="Waiting")

    done = await do(conn, verbs.DISCARD, Choice(ids=[dead]))

    assert done.affected == 1
    assert await rows(conn) == {following: ("Waiting", True), last: ("Waiting", False), other: ("Waiting", False)}
    await check_counters(conn)
    assert (await audit(conn))[0][0] == "discard"


async def test_a_dead_one_behind_a_discarded_one_stays_dead(conn: asyncpg.Connection) -> None:
    first, later = await held(conn), await held(conn)

    await do(conn, verbs.DISCARD, Choice(ids=[first]))

    assert await rows(conn) == {later: ("Dead", False)}


async def test_the_next_one_is_not_due_before_its_time(conn: asyncpg.Connection) -> None:
    dead, following = await held(conn), await held(conn, state="Waiting")
    at = datetime.now(UTC) + timedelta(hours=1)
    await conn.execute("UPDATE marty.outbox_held SET deliver_after = $2 WHERE id = $1", following, at)

    await do(conn, verbs.DISCARD, Choice(ids=[dead]))

    assert await conn.fetchval("SELECT due_at FROM marty.outbox_held WHERE id = $1", following) == at


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (EVERYTHING, {1, 2, 3, 4}),
        (Choice(cause=cause(ERROR, "orders", "placed", "7 bytes").fingerprint), {1, 3}),
        (Choice(topic="stock"), {2}),
        (Choice(event_type="cancelled"), {4}),
        (Choice(aggregate_id="a-2"), {3}),
        (Choice(since=datetime.now(UTC) - timedelta(minutes=30)), {1, 2, 3}),
        (Choice(until=datetime.now(UTC) - timedelta(minutes=30)), {4}),
        (Choice(topic="orders", aggregate_id="a-1"), {1, 4}),
        (Choice(topic="nothing"), set()),
    ],
)
async def test_filters_choose_the_same_for_lists_previews_and_verbs(
    conn: asyncpg.Connection, chosen: Choice, expected: set[int]
) -> None:
    await held(conn, error="7 bytes")
    await held(conn, topic="stock")
    await held(conn, error="8 bytes", aggregate="a-2")
    await held(conn, event_type="cancelled", failed_ago=timedelta(hours=1))
    await held(conn, state="Waiting")

    assert {it.id for it in await outbox_dead.page(conn, chosen, 1000, 100)} == expected
    assert (await verbs.preview(conn, chosen)).events == len(expected)
    assert (await do(conn, verbs.DISCARD, chosen)).affected == len(expected)
    assert {it for it, (state, _) in (await rows(conn)).items() if state == "Dead"} == {1, 2, 3, 4} - expected
    await check_counters(conn)


async def test_what_dies_after_the_look_is_not_meant(conn: asyncpg.Connection) -> None:
    seen = await held(conn)
    looked = await verbs.preview(conn, EVERYTHING)
    later = await held(conn, aggregate="a-2", failed_ago=timedelta(0))

    done = await verbs.carry_out(conn, verbs.DISCARD, looked.chosen, ANN)

    assert done.affected == 1
    assert seen not in await rows(conn)
    assert later in await rows(conn)


async def test_a_look_writes_nothing(conn: asyncpg.Connection) -> None:
    number = await held(conn)
    before = await conn.fetch("SELECT h.*, h.xmin FROM marty.outbox_held h")

    seen = await verbs.preview(conn, EVERYTHING)
    changed = await verbs.edit(conn, number, Edit(b'{"n": 2}'), ANN, dry_run=True)

    assert (seen.events, seen.aggregates, [it.id for it in seen.sample]) == (1, 1, [number])
    assert changed.after.payload == b'{"n": 2}'
    assert await conn.fetch("SELECT h.*, h.xmin FROM marty.outbox_held h") == before
    assert await audit(conn) == []


async def test_large_verbs_go_in_batches_with_an_audit_row_each(
    conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "BATCH", 4)
    for number in range(10):
        await held(conn, aggregate=f"a-{number % 3}")

    done = await do(conn, verbs.REDRIVE, EVERYTHING)

    assert done.affected == 10
    assert [line[4] for line in await audit(conn)] == [4, 4, 2]
    due = [number for number, (_, due) in (await rows(conn)).items() if due]
    assert due == [1, 2, 3]
    await check_counters(conn)


async def test_two_people_redrive_and_discard_the_same_events(
    conn: asyncpg.Connection, second: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "BATCH", 3)
    for number in range(40):
        await held(conn, aggregate=f"a-{number % 7}", error="'x' is refused" if number % 2 else "too large")

    one, other = await asyncio.gather(do(conn, verbs.REDRIVE, EVERYTHING), do(second, verbs.DISCARD, EVERYTHING, BOB))

    assert one.affected + other.affected == 40
    by_verb = {"redrive": 0, "discard": 0}
    for verb, *_, affected in await audit(conn):
        by_verb[verb] += affected
    assert by_verb == {"redrive": one.affected, "discard": other.affected}
    assert all(state == "Retrying" for state, _ in (await rows(conn)).values())
    first = await conn.fetch("SELECT min(id) AS id, aggregate_id FROM marty.outbox_held GROUP BY aggregate_id")
    due = await conn.fetch("SELECT id, aggregate_id FROM marty.outbox_held WHERE due_at IS NOT NULL")
    assert {it["id"] for it in first} == {it["id"] for it in due}
    await check_counters(conn)


async def test_who_comes_second_finds_nothing_to_do(conn: asyncpg.Connection, second: asyncpg.Connection) -> None:
    number = await held(conn)
    async with conn.transaction():
        picked = await outbox_dead_verb.pick(conn, EVERYTHING, 0, 10)
        waiting = asyncio.create_task(do(second, verbs.DISCARD, Choice(ids=[number]), BOB))
        await blocked(conn)
        assert await outbox_dead_verb.redrive(conn, picked) == [number]

    assert (await waiting).affected == 0
    assert await rows(conn) == {number: ("Retrying", True)}
    await check_counters(conn)


async def test_a_relay_that_holds_an_event_behind_a_dead_one_does_not_miss_that_it_left(
    conn: asyncpg.Connection, second: asyncpg.Connection
) -> None:
    dead = await held(conn)
    async with conn.transaction():
        # As the relay does: the lanes' rows first.
        await conn.execute(outbox_dead_verb.LOCK_LANES, list(range(LANES)))
        behind = await held(conn, state="Waiting")
        waiting = asyncio.create_task(do(second, verbs.DISCARD, Choice(ids=[dead]), BOB))
        await blocked(conn)

    await waiting
    assert await rows(conn) == {behind: ("Waiting", True)}


async def test_ids_that_are_no_dead_letters_are_told_with_their_reasons(conn: asyncpg.Connection) -> None:
    dead, waiting = await held(conn), await held(conn, state="Waiting")
    retrying = await held(conn, state="Retrying", aggregate="a-2", due=True)

    done = await do(conn, verbs.REDRIVE, Choice(ids=[dead, waiting, retrying, 99]))

    assert done.affected == 1
    texts = {number: str(reason) for number, reason in done.refused.items()}
    assert "is Waiting, behind another one of its aggregate" in texts[waiting]
    assert "is Retrying, due at " in texts[retrying]
    assert "is not held: it was published or discarded" in texts[99]


async def test_an_edit_keeps_the_former_content_in_the_audit(conn: asyncpg.Connection) -> None:
    number = await held(conn, headers='{"tenant": "t1", "old": "x"}', payload=b"\xff\x00")

    await verbs.edit(conn, number, Edit(b'{"n": 2}', {"tenant": "t2", "old": None}), ANN, dry_run=False)

    found = await outbox_dead.show(conn, number)
    assert found is not None
    assert (found.payload, found.own_headers, found.state) == (b'{"n": 2}', {"tenant": "t2"}, "Dead")
    before = {"payload_base64": "/wA=", "headers": {"tenant": "t1", "old": "x"}}
    assert await audit(conn) == [("edit", "ann", ANN.why, {"id": number, "before": before}, 1)]


async def test_two_edits_at_once_each_keep_what_they_found(
    conn: asyncpg.Connection, second: asyncpg.Connection
) -> None:
    number = await held(conn, payload=b'{"n": 0}')

    await asyncio.gather(
        verbs.edit(conn, number, Edit(b'{"n": 1}'), ANN, dry_run=False),
        verbs.edit(second, number, Edit(b'{"n": 2}'), BOB, dry_run=False),
    )

    kept = [line[3]["before"]["payload"] for line in await audit(conn)]
    now = await conn.fetchval("SELECT payload FROM marty.outbox_held")
    assert kept[0] == '{"n": 0}'
    assert {kept[1], now.decode()} == {'{"n": 1}', '{"n": 2}'}


async def test_only_dead_events_are_edited(conn: asyncpg.Connection) -> None:
    number = await held(conn, state="Retrying", due=True)

    with pytest.raises(NotDead, match="is not dead: it is Retrying") as caught:
        await verbs.edit(conn, number, Edit(b"{}"), ANN, dry_run=False)
    assert caught.value.held
    with pytest.raises(NotDead, match="is not held"):
        await verbs.edit(conn, 99, Edit(b"{}"), ANN, dry_run=False)


async def test_an_event_is_shown_with_what_waits_behind_it(conn: asyncpg.Connection) -> None:
    dead = await held(conn)
    following = await held(conn, state="Waiting")
    await held(conn, state="Waiting")
    free = await held(conn, in_order=False)

    assert (await verbs.shown(conn, dead))[1:] == (2, following)
    assert (await verbs.shown(conn, free))[1:] == (0, None)


async def test_groups_tell_what_is_dead_now(conn: asyncpg.Connection) -> None:
    for number in range(3):
        await held(conn, error=f"{number} bytes")
    other = await held(conn, topic="stock")

    first, second_group = await outbox_dead.groups(conn, 10)
    assert (first.message, first.dead, first.sample, first.topic) == ("<number> bytes", 3, 3, "orders")
    assert (second_group.dead, second_group.sample) == (1, other)
    await do(conn, verbs.DISCARD, Choice(cause=first.cause))
    assert [it.topic for it in await outbox_dead.groups(conn, 10)] == ["stock"]
    assert await outbox_dead.groups(conn, 0) == []


async def enqueued(conn: asyncpg.Connection, number: int) -> None:
    await conn.execute("SELECT marty.enqueue_event('t', 'e', $1, 'a')", f'{{"n": {number}}}')


async def unread(conn: asyncpg.Connection) -> list[bytes]:
    positions = await outbox_position.load(conn, list(range(LANES)))
    opened = await outbox.open_window(conn, positions, 100)
    assert opened.rows is not None
    return [row["payload"] for row in opened.rows]


async def restored(conn: asyncpg.Connection) -> None:
    """As after a restore: rows and positions name transactions of a cluster that was far ahead."""
    await outbox_position.load(conn, list(range(LANES)))
    await conn.execute("UPDATE marty.outbox SET xid = (4000000000 + id)::text::xid8")
    await conn.execute("UPDATE marty.outbox_position SET system_identifier = 1, prev = '4000000002:4000000002:'")


@pytest.mark.parametrize(("republish", "expected"), [(True, [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']), (False, [])])
async def test_a_restored_outbox_gets_a_new_position(
    conn: asyncpg.Connection, second: asyncpg.Connection, republish: bool, expected: list[bytes]
) -> None:
    for number in range(3):
        await enqueued(conn, number)
    await restored(conn)
    with pytest.raises(OutboxRestored, match=r"marty outbox reset-cursor --republish"):
        await outbox_position.load(conn, list(range(LANES)))
    writer = second.transaction()
    await writer.start()
    await enqueued(second, 7)

    looked = await verbs.reset_cursor(conn, ANN, republish=republish, dry_run=True)
    with pytest.raises(OutboxRestored):
        await outbox_position.load(conn, list(range(LANES)))
    done = await verbs.reset_cursor(conn, ANN, republish=republish, dry_run=False)
    await enqueued(conn, 8)

    assert (looked, looked.events) == (done, 3)
    assert await unread(conn) == [*expected, b'{"n": 8}']
    await writer.commit()
    assert sorted(await unread(conn)) == sorted([*expected, b'{"n": 7}', b'{"n": 8}'])
    (line,) = await audit(conn)
    assert line == ("reset-cursor", "ann", ANN.why, {"how": "republish" if republish else "skip", "held": 0}, 3)
    # What was read is not read again.
    opened = await outbox.open_window(conn, await outbox_position.load(conn, list(range(LANES))), 100)
    await conn.execute("UPDATE marty.outbox_position SET prev = $1", opened.end)
    assert await unread(conn) == []


async def test_others_that_commit_while_the_position_is_reset_are_unread(
    conn: asyncpg.Connection, second: asyncpg.Connection
) -> None:
    await enqueued(conn, 0)
    await restored(conn)
    async with conn.transaction():
        await conn.execute("SELECT pg_current_xact_id()")
        # Transactions behind ours end before the position is taken: ours is no longer the newest.
        for number in (1, 2):
            await enqueued(second, number)
        await verbs.reset_cursor(conn, ANN, republish=True, dry_run=False)
        await enqueued(second, 3)

    assert await unread(conn) == [b'{"n": %d}' % number for number in range(4)]


async def test_held_events_stay_held_and_are_not_published_beside(conn: asyncpg.Connection) -> None:
    await enqueued(conn, 0)
    await enqueued(conn, 1)
    number = await held(conn)
    assert number == await conn.fetchval("SELECT min(id) FROM marty.outbox")
    await restored(conn)

    found = await verbs.reset_cursor(conn, ANN, republish=True, dry_run=False)

    assert (found.events, found.held) == (1, 1)
    assert await unread(conn) == [b'{"n": 1}']
    assert await rows(conn) == {number: ("Dead", False)}


async def test_a_position_of_this_cluster_is_not_reset(conn: asyncpg.Connection) -> None:
    await outbox_position.load(conn, list(range(LANES)))

    with pytest.raises(InvalidDefinition, match="stored by this very Postgres cluster"):
        await verbs.reset_cursor(conn, ANN, republish=True, dry_run=False)


@pytest.mark.parametrize("verb", [verbs.REDRIVE, verbs.DISCARD])
async def test_who_comes_second_is_told_that_it_is_not_dead_any_more(
    conn: asyncpg.Connection, second: asyncpg.Connection, verb: str
) -> None:
    taken, free = await held(conn, aggregate="a"), await held(conn, aggregate="b")
    async with conn.transaction():
        await outbox_dead_verb.pick(conn, Choice(ids=[taken]), 0, 1)
        await outbox_dead_verb.redrive(conn, [taken])
        other = asyncio.create_task(do(second, verb, Choice(ids=[taken, free]), BOB))
        # It has seen both as dead, and waits for our lock.
        await blocked(conn)
    done = await other
    assert (done.affected, list(done.refused)) == (1, [taken])
    assert "is not dead: it is Retrying" in str(done.refused[taken])
    await check_counters(conn)
