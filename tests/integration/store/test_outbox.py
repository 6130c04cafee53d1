"""The outbox's SQL face: what `marty.enqueue_event` accepts and refuses, the stored position, and its one owner."""

import json
import secrets
from datetime import UTC, datetime

import asyncpg
import pytest

from marty_msf.core.errors import LeaseLost, OutboxOwned, OutboxRestored
from marty_msf.core.lanes import LANES
from marty_msf.core.names import LIBRARY_NAMESPACE
from marty_msf.core.windows import BEGINNING, Position, Snapshot, closed
from marty_msf.store import leases, outbox, outbox_position
from tests.support.postgres import with_database

pytestmark = pytest.mark.postgres

SCOPE = "relay:ns/name"
ENQUEUE = "SELECT marty.enqueue_event($1, $2, $3, $4, $5, $6)"
ENQUEUE_TOGETHER = """
SELECT marty.enqueue_events_bytes($1, $2, ARRAY(SELECT convert_to(p, 'UTF8') FROM unnest($3::text[]) AS p), $4, $5,
    $6::text[]::jsonb[],
    array_fill('normal'::text, ARRAY[cardinality($1::text[])]),
    array_fill(NULL::integer, ARRAY[cardinality($1::text[])]),
    array_fill(NULL::timestamptz, ARRAY[cardinality($1::text[])]),
    array_fill(NULL::text, ARRAY[cardinality($1::text[])]))
"""
GOOD = ("order.events", "order_created", '{"total": 5}', "o-1", "order", "{}")


def but(**changes: str | None) -> tuple[str | None, ...]:
    names = ("topic", "event_type", "payload", "aggregate_id", "aggregate_type", "headers")
    return tuple(changes.get(name, value) for name, value in zip(names, GOOD, strict=True))


async def test_an_event_is_part_of_the_callers_transaction(conn: asyncpg.Connection) -> None:
    transaction = conn.transaction()
    await transaction.start()
    await conn.fetchval(ENQUEUE, *GOOD)
    await transaction.rollback()
    second = await conn.fetchval(ENQUEUE, *GOOD)

    rows = await conn.fetch("SELECT id, lane, payload, headers FROM marty.outbox")
    assert [(row["id"], row["payload"], row["headers"]) for row in rows] == [(second, b'{"total": 5}', None)]
    assert rows[0]["lane"] == await conn.fetchval("SELECT marty.lane_of('o-1')")


async def test_arguments_may_be_given_by_name(conn: asyncpg.Connection) -> None:
    await conn.execute(
        "SELECT marty.enqueue_event(topic => 't', event_type => 'e', payload => '{}', aggregate_id => 'a', "
        "aggregate_type => 'order', headers => '{\"traceparent\": \"00-1\"}')"
    )
    row = await conn.fetchrow("SELECT topic, aggregate_type, headers FROM marty.outbox")
    assert (row["topic"], row["aggregate_type"], row["headers"]) == ("t", "order", '{"traceparent": "00-1"}')


@pytest.mark.parametrize(
    ("arguments", "state", "message"),
    [
        (but(payload='{"x": "' + "y" * 900_000 + '"}'), "MA001", "over the limit of 900000"),
        (but(topic="no topic"), "MA002", "'no topic' is no Kafka topic name"),
        (but(topic=""), "MA002", "is no Kafka topic name"),
        (but(topic=".."), "MA002", "is no Kafka topic name"),
        (but(topic="t" * 250), "MA002", "is no Kafka topic name"),
        (but(topic="topic\n"), "MA002", "is no Kafka topic name"),
        (but(topic="träger"), "MA002", "is no Kafka topic name"),
        (but(topic=None), "MA002", "NULL is no Kafka topic name"),
        (but(topic="__consumer_offsets"), "MA002", "is Kafka's own, where nobody else may write"),
        (but(headers='{"ce_id": "x"}'), "MA003", "'ce_id' is refused"),
        (but(headers='{"CE_ID": "x"}'), "MA003", "'CE_ID' is refused"),
        (but(headers='{"a b": "x"}'), "MA003", "'a b' is refused"),
        (but(headers='{"a\\n": "x"}'), "MA003", "is refused"),
        (but(headers='{"": "x"}'), "MA003", "'' is refused"),
        (but(headers='{"' + "a" * 101 + '": "x"}'), "MA003", "'a{101}' is refused"),
        (but(headers='{"a": 1}'), "MA003", "'a' is refused"),
        (but(headers="[]"), "MA003", "must be a JSON object"),
        (but(headers='{"a": "' + "y" * 16_384 + '"}'), "MA003", "at most 16384 bytes"),
        (but(event_type=""), "MA004", "event_type '' is missing"),
        (but(event_type=None), "MA004", "event_type NULL is missing"),
        (but(aggregate_id=""), "MA004", "aggregate_id '' is empty"),
        (but(aggregate_id="a" * 513), "MA004", "aggregate_id 'a{513}' is empty or has more than 512 bytes"),
        (but(aggregate_type=None), "MA004", "aggregate_type NULL"),
        (but(payload=None), "MA004", "payload is missing"),
    ],
)
async def test_bad_input_is_refused_with_a_code_and_a_hint(
    conn: asyncpg.Connection, arguments: tuple[str | None, ...], state: str, message: str
) -> None:
    together = zip(GOOD, arguments, GOOD, strict=True)
    for statement, given in ((ENQUEUE, arguments), (ENQUEUE_TOGETHER, together)):
        with pytest.raises(asyncpg.PostgresError, match=message) as caught:
            await conn.fetch(statement, *given)
        assert caught.value.sqlstate == state
        assert caught.value.hint
    assert not await conn.fetchval("SELECT count(*) FROM marty.outbox")


async def test_events_together_are_in_their_order_whether_usual_or_not(conn: asyncpg.Connection) -> None:
    names = [str(number) for number in range(1_000)]
    headers = ['{"a": "b"}' if number % 3 else "{}" for number in range(1_000)]
    priorities = ["high" if number % 5 else "low" for number in range(1_000)]
    given = (["t"] * 1_000, ["e"] * 1_000, names, [None, *names[1:]], [""] * 1_000, headers)
    rows = await conn.fetch(
        ENQUEUE_TOGETHER.replace("array_fill('normal'::text, ARRAY[cardinality($1::text[])])", "$7::text[]"),
        *given,
        priorities,
    )

    ids = [row[0] for row in rows]
    found = await conn.fetch("SELECT * FROM marty.outbox ORDER BY id")
    assert [row["id"] for row in found] == ids
    assert [row["payload"].decode() for row in found] == names
    assert [row["headers"] or "{}" for row in found] == headers
    assert [row["priority"] for row in found] == [2 if number % 5 else 0 for number in range(1_000)]
    assert [row["aggregate_id"] for row in found[:2]] == [None, "1"]
    lanes = await conn.fetch("SELECT marty.lane_of(name) AS lane FROM unnest($1::text[]) AS name", names[1:])
    assert [row["lane"] for row in found[1:]] == [row["lane"] for row in lanes]


async def test_the_longest_names_of_all_kinds_of_characters_are_taken(conn: asyncpg.Connection) -> None:
    topic, header = "aZ09._-" * 35 + "aZ09", "aZ09._-" * 14 + "aZ"
    await conn.fetchval(ENQUEUE, *but(topic=topic, headers=f'{{"{header}": "x"}}'))

    assert (len(topic), len(header)) == (249, 100)
    assert await conn.fetchval("SELECT topic FROM marty.outbox") == topic


@pytest.mark.parametrize("time", ["infinity", "-infinity"])
async def test_a_time_that_is_none_is_refused(conn: asyncpg.Connection, time: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match=f"deliver_after {time} is no time") as caught:
        await conn.execute(
            "SELECT marty.enqueue_event('t', 'e', '{}', 'a', deliver_after => $1::text::timestamptz)", time
        )
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("MA005", True)


ENQUEUE_ALL = "SELECT marty.enqueue_events($1::text::jsonb)"


async def test_an_array_of_events_is_enqueued_in_its_order(conn: asyncpg.Connection) -> None:
    full = {
        "topic": "t",
        "event_type": "e",
        "aggregate_type": "order",
        "message_key": "k",
        "priority": "high",
        "headers": {"a": "b"},
        "max_delivery_attempts": 3,
        "deliver_after": "2026-01-31T12:00:00.5+01:00",
    }
    events = [{**full, "payload": None}, {"topic": "t", "event_type": "e", "payload": [2], "aggregate_id": None}]
    ids = await conn.fetchval(ENQUEUE_ALL, json.dumps(events))

    rows = await conn.fetch("SELECT * FROM marty.outbox ORDER BY id")
    assert [(row["id"], row["payload"]) for row in rows] == list(zip(ids, (b"null", b"[2]"), strict=True))
    assert (rows[0]["priority"], rows[0]["max_attempts"], rows[0]["headers"]) == (2, 3, '{"a": "b"}')
    assert rows[0]["deliver_after"] == datetime(2026, 1, 31, 11, 0, 0, 500_000, UTC)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("topic", 5, "event 1 of the array: 'topic' cannot be 5"),
        ("event_type", None, "'event_type' cannot be null"),
        ("headers", ["a"], "'headers' cannot be \\[\"a\"\\]"),
        ("max_delivery_attempts", "many", "'max_delivery_attempts' cannot be \"many\""),
        ("max_delivery_attempts", 1.5, "'max_delivery_attempts' cannot be 1.5"),
        ("deliver_after", "soon", "'deliver_after' cannot be \"soon\""),
        ("deliver_after", "2026-01-31T12:00:00", "'deliver_after' cannot be"),
        ("retries", 5, "event 1 of the array has an unknown field 'retries'"),
    ],
)
async def test_a_field_of_an_array_that_cannot_be_is_named_with_its_place(
    conn: asyncpg.Connection, field: str, value: object, message: str
) -> None:
    good = {"topic": "t", "event_type": "e", "payload": {}}
    with pytest.raises(asyncpg.PostgresError, match=message) as caught:
        await conn.fetchval(ENQUEUE_ALL, json.dumps([good, {**good, field: value}]))
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("MA004", True)


async def test_sql_in_the_arguments_is_data(conn: asyncpg.Connection) -> None:
    nasty = "x'); DROP TABLE marty.outbox; --"
    await conn.fetchval(ENQUEUE, *but(event_type=nasty, aggregate_id=nasty, aggregate_type=nasty))

    assert await conn.fetchval("SELECT aggregate_id FROM marty.outbox") == nasty


async def test_bytes_are_stored_as_they_are(conn: asyncpg.Connection) -> None:
    await conn.execute("SELECT marty.enqueue_event_bytes('t', 'e', $1, 'a')", b"\x00\xff")

    assert await conn.fetchval("SELECT payload FROM marty.outbox") == b"\x00\xff"


async def test_ids_and_transactions_cannot_be_chosen(conn: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.GeneratedAlwaysError):
        await conn.execute(
            "INSERT INTO marty.outbox (id, lane, topic, event_type, aggregate_type, aggregate_id, payload)"
            " VALUES (1, 0, 't', 'e', '', 'a', '')"
        )


async def owned(conn: asyncpg.Connection, resource: str = "ns/name") -> dict[int, int]:
    await outbox_position.own(conn, resource)
    await outbox_position.load(conn, list(range(LANES)))
    return dict((await leases.claim(conn, SCOPE, "me", range(LANES), 60)).held)


async def test_positions_are_stored_and_loaded_as_they_are(conn: asyncpg.Connection) -> None:
    epochs = await owned(conn)
    positions = {
        0: Position(BEGINNING, Snapshot(5, 9, (5, 7)), 42),
        1: closed(Snapshot(5, 9, (5, 7))),
    }
    await outbox_position.store(conn, SCOPE, "me", "ns/name", epochs, positions, {0: 3})

    assert await outbox_position.load(conn, [0, 1]) == positions
    assert await outbox_position.published_total(conn) == 3


async def test_a_zombie_cannot_store_a_position(conn: asyncpg.Connection) -> None:
    epochs = await owned(conn)
    before = await outbox_position.load(conn, [0, 1])
    await leases.release(conn, SCOPE, "me", [1])

    with pytest.raises(LeaseLost):
        await outbox_position.store(
            conn, SCOPE, "me", "ns/name", epochs, dict.fromkeys((0, 1), closed(Snapshot(9, 9, ()))), {0: 1, 1: 1}
        )
    assert await outbox_position.load(conn, [0, 1]) == before
    assert await outbox_position.published_total(conn) == 0


async def test_a_relay_that_lost_the_outbox_cannot_store_a_position(conn: asyncpg.Connection) -> None:
    epochs = await owned(conn)
    await conn.execute("UPDATE marty.outbox_owner SET resource = 'ns/other'")

    with pytest.raises(LeaseLost):
        await outbox_position.store(conn, SCOPE, "me", "ns/name", epochs, {0: closed(BEGINNING)}, {})


async def test_an_application_that_owns_the_outbox_is_not_called_an_outboxrelay(conn: asyncpg.Connection) -> None:
    await outbox_position.own(conn, f"{LIBRARY_NAMESPACE}/outbox")
    with pytest.raises(
        OutboxOwned, match="published by an application's EnhancedOutboxProcessor, so OutboxRelay ns/second"
    ):
        await outbox_position.own(conn, "ns/second")


async def test_a_second_relay_is_told_who_owns_the_outbox_until_that_one_is_silent(conn: asyncpg.Connection) -> None:
    await outbox_position.own(conn, "ns/first")
    await outbox_position.own(conn, "ns/first")
    with pytest.raises(OutboxOwned, match="published by OutboxRelay ns/first, so OutboxRelay ns/second stays idle"):
        await outbox_position.own(conn, "ns/second")

    await conn.execute("UPDATE marty.outbox_owner SET expires_at = now() - interval '1 second'")
    await outbox_position.own(conn, "ns/second")
    with pytest.raises(OutboxOwned):
        await outbox_position.own(conn, "ns/first")


async def test_a_relay_keeps_the_outbox_long_enough_to_get_new_pods(conn: asyncpg.Connection) -> None:
    await outbox_position.own(conn, "ns/first")
    await conn.execute("UPDATE marty.outbox_owner SET expires_at = expires_at - interval '50 seconds'")
    with pytest.raises(OutboxOwned, match=r"at most 60 s after its last worker ended"):
        await outbox_position.own(conn, "ns/second")


async def test_positions_of_another_cluster_are_refused_with_the_ways_out(conn: asyncpg.Connection) -> None:
    await owned(conn)
    await conn.execute("UPDATE marty.outbox_position SET system_identifier = 1")

    with pytest.raises(
        OutboxRestored, match=r"`marty outbox reset-cursor --republish`.* `marty outbox reset-cursor --skip`"
    ):
        await outbox_position.load(conn, list(range(LANES)))


async def test_the_backlog_is_what_was_enqueued_and_not_published(conn: asyncpg.Connection) -> None:
    epochs = await owned(conn)
    for number in range(10):
        await conn.fetchval(ENQUEUE, *but(aggregate_id=f"o-{number}"))
    positions = await outbox_position.load(conn, list(range(LANES)))
    assert (await outbox.backlog(conn, 1000)).events == 10
    assert (await outbox.backlog(conn, 4)).events == 4

    opened = await outbox.open_window(conn, positions, 100)
    assert opened.rows is not None
    fourth = opened.rows[3]["id"]
    within = {lane: position.opened(opened.end, fourth) for lane, position in positions.items()}
    await outbox_position.store(conn, SCOPE, "me", "ns/name", epochs, within, {})
    await conn.fetchval(ENQUEUE, *GOOD)
    found = await outbox.backlog(conn, 1000)
    assert found.events == 7
    assert 0 < found.oldest_seconds < 60

    end = (await outbox.open_window(conn, positions, 100)).end
    await outbox_position.store(conn, SCOPE, "me", "ns/name", epochs, dict.fromkeys(range(LANES), closed(end)), {})
    assert await outbox.backlog(conn, 1000) == outbox.Backlog(0, 0.0)


async def test_an_open_writer_is_named(conn: asyncpg.Connection, postgres_url: str) -> None:
    assert await outbox.oldest_writer(conn) is None
    writer = await asyncpg.connect(postgres_url, server_settings={"application_name": "forgetful"})
    try:
        await writer.execute("BEGIN")
        await writer.fetchval(ENQUEUE, *GOOD)
        found = await outbox.oldest_writer(conn)
        assert found is not None
        assert "forgetful" in found.name
    finally:
        await writer.close()


async def test_a_prepared_transaction_is_named_and_a_session_that_only_reads_is_not(
    conn: asyncpg.Connection, postgres_url: str
) -> None:
    """Naive: pg_stat_activity alone, in which a prepared transaction has no session; or every open transaction."""
    name = f"marty-{secrets.token_hex(4)}"
    other = await asyncpg.connect(postgres_url)
    try:
        await other.execute("BEGIN")
        await other.fetchval(ENQUEUE, *GOOD)
        await other.execute(f"PREPARE TRANSACTION '{name}'")
        await other.execute("BEGIN")
        await other.fetchval("SELECT count(*) FROM marty.outbox")
        found = await outbox.oldest_writer(conn)
        await conn.execute(f"ROLLBACK PREPARED '{name}'")
        assert found is not None
        assert found.name == f"prepared {name}"
        assert await outbox.oldest_writer(conn) is None
    finally:
        await other.close()


async def test_an_application_needs_no_more_than_the_documented_rights(
    conn: asyncpg.Connection, postgres_url: str
) -> None:
    role = f"app_{secrets.token_hex(4)}"
    await conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    try:
        await conn.execute(f"GRANT USAGE ON SCHEMA marty TO {role}")
        await conn.execute(f"GRANT SELECT, INSERT ON marty.outbox TO {role}")
        app = await asyncpg.connect(
            with_database(postgres_url, postgres_url.rpartition("/")[2], user=role, password=role)
        )
        try:
            assert await app.fetchval(ENQUEUE, *GOOD) == 1
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute("DELETE FROM marty.outbox")
        finally:
            await app.close()
    finally:
        await conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
