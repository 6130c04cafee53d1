"""The user's table: made, verified, written; and every other statement of projections."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marty_msf.core.errors import ReadModelMismatch
from marty_msf.core.projection.fold import Write, Writes, fold
from marty_msf.core.projection.mapping import Change, Effect
from marty_msf.core.resources.projection import ReadModel
from marty_msf.store import positions, projection, read_model
from marty_msf.store.read_model import Table
from tests.integration.projection.support import RESOURCE, SCOPE

pytestmark = pytest.mark.postgres

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": sql
    for module in (positions, projection, read_model)
    for name, sql in vars(module).items()
    if name.isupper() and isinstance(sql, str) and not name.startswith("_") and name != "IDENTIFIER"
}


def table(**changes: Any) -> Table:
    fields: dict[str, Any] = {
        "table": "order_summary",
        "columns": {"order_id": "text", "status": "text", "total": "bigint"},
        "key": ["order_id"],
        "indexes": [["status"], ["status", "total"]],
    }
    return Table.of(ReadModel.model_validate(fields | changes))


async def prepare(conn: asyncpg.Connection, wanted: Table, *, resource: str = RESOURCE, fresh: bool = True) -> None:
    async with conn.transaction():
        await read_model.prepare(conn, wanted, resource, fresh=fresh)


@pytest.mark.parametrize("sql", STATEMENTS.values(), ids=STATEMENTS)
async def test_statement_prepares_against_the_migrated_schema(conn: asyncpg.Connection, sql: str) -> None:
    await conn.prepare(sql)


async def test_the_table_and_its_indexes_are_made_once_by_any_number_of_workers(postgres_url: str) -> None:
    async def worker() -> None:
        own = await asyncpg.connect(postgres_url)
        await prepare(own, table())
        await own.close()

    await asyncio.gather(*(worker() for _ in range(5)))
    conn = await asyncpg.connect(postgres_url)
    indexes = await conn.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'order_summary' ORDER BY indexname")
    options = await conn.fetchval("SELECT reloptions::text FROM pg_class WHERE relname = 'order_summary'")
    await conn.close()
    assert [row[0].partition("USING ")[2] for row in indexes] == [
        "btree (order_id)",
        "btree (status)",
        "btree (status, total)",
    ]
    assert options == "{fillfactor=75}"


@pytest.mark.parametrize(
    ("ddl", "parts"),
    [
        ("(order_id text PRIMARY KEY, status text)", ["'total'", "bigint", "add the column"]),
        ("(order_id text PRIMARY KEY, status text, total text)", ["'total'", "of type text", "wants bigint"]),
        ("(order_id text PRIMARY KEY, status varchar(9), total bigint)", ["'status'", "character varying(9)", "text"]),
        ("(order_id text, status text PRIMARY KEY, total bigint)", ["primary key", "(status)", "(order_id)"]),
        ("(order_id text, status text, total bigint)", ["primary key", "missing", "(order_id)"]),
        (
            "(order_id text PRIMARY KEY, status text, total bigint, more int NOT NULL)",
            ["'more'", "integer", "declare it"],
        ),
    ],
)
async def test_a_table_that_does_not_fit_is_named_with_column_found_and_wanted(
    conn: asyncpg.Connection, ddl: str, parts: list[str]
) -> None:
    await conn.execute(f"CREATE TABLE public.order_summary {ddl}")
    with pytest.raises(ReadModelMismatch) as mismatch:
        await prepare(conn, table())
    for part in (*parts, "order_summary", "spec.readModel"):
        assert part in str(mismatch.value)


async def test_every_column_type_is_recognised_again(conn: asyncpg.Connection) -> None:
    types = [
        "text",
        "bigint",
        "integer",
        "boolean",
        "double precision",
        "numeric",
        "timestamptz",
        "date",
        "uuid",
        "jsonb",
    ]
    wanted = table(columns={"order_id": "text"} | {f"c_{n}": kind for n, kind in enumerate(types)}, indexes=[])
    await prepare(conn, wanted)
    await prepare(conn, wanted)


async def test_further_columns_of_the_user_are_left_alone(conn: asyncpg.Connection) -> None:
    await prepare(conn, table())
    await conn.execute("ALTER TABLE public.order_summary ADD remark text, ADD made timestamptz NOT NULL DEFAULT now()")
    await prepare(conn, table())


async def test_a_view_a_missing_schema_and_a_missing_right_say_what_to_do(conn: asyncpg.Connection) -> None:
    await conn.execute("CREATE VIEW public.order_summary AS SELECT 1 AS one")
    with pytest.raises(ReadModelMismatch, match="no table"):
        await prepare(conn, table())
    with pytest.raises(ReadModelMismatch, match="schema 'nowhere' does not exist"):
        await prepare(conn, table(schema="nowhere"))
    role = f"r_{await conn.fetchval('SELECT pg_backend_pid()')}"
    await conn.execute(f"CREATE ROLE {role}; CREATE SCHEMA closed; SET ROLE {role}")
    try:
        with pytest.raises(ReadModelMismatch, match="GRANT USAGE, CREATE ON SCHEMA"):
            await prepare(conn, table(schema="closed"))
    finally:
        await conn.execute(f"RESET ROLE; DROP ROLE {role}")


async def test_a_table_that_was_filled_and_is_gone_is_not_made_again_empty(conn: asyncpg.Connection) -> None:
    with pytest.raises(ReadModelMismatch, match=r"missing, but events were applied.*reset_projection"):
        await prepare(conn, table(), fresh=False)


async def test_a_long_index_name_is_cut_and_stays_unique(conn: asyncpg.Connection) -> None:
    wide = [f"column_{'x' * 40}_{n}" for n in range(3)]
    wanted = table(
        columns={"order_id": "text"} | dict.fromkeys(wide, "text"), indexes=[[wide[0], wide[1]], [wide[0], wide[2]]]
    )
    await prepare(conn, wanted)
    assert await conn.fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = 'order_summary'") == 3


async def test_an_identifier_that_breaks_out_of_its_quotes_is_refused() -> None:
    hostile = Table("public", 'x"; DROP TABLE y; --', table().columns, ["order_id"], [])
    with pytest.raises(ValueError, match="no identifier"):
        hostile.create()


async def test_a_table_has_one_projection_until_that_one_is_reset(conn: asyncpg.Connection) -> None:
    await prepare(conn, table())
    await prepare(conn, table())
    await prepare(conn, table(table="other"), resource="shop/second")
    with pytest.raises(ReadModelMismatch) as refused:
        await prepare(conn, table(), resource="shop/second")
    for part in (f"written by Projection {RESOURCE}", "spec.readModel.table", f"marty.reset_projection('{RESOURCE}')"):
        assert part in str(refused.value)

    await conn.execute("SELECT marty.reset_projection($1)", RESOURCE)
    await prepare(conn, table(), resource="shop/second")
    with pytest.raises(ReadModelMismatch, match="written by Projection shop/second"):
        await prepare(conn, table())


async def test_a_table_is_claimed_only_by_a_projection_that_it_fits(conn: asyncpg.Connection) -> None:
    await conn.execute("CREATE TABLE public.order_summary (order_id text PRIMARY KEY)")
    with pytest.raises(ReadModelMismatch, match="exists without column"):
        await prepare(conn, table())
    await prepare(conn, table(columns={"order_id": "text"}, indexes=[]), resource="shop/second")


async def test_of_two_projections_that_start_at_once_one_gets_the_table(postgres_url: str) -> None:
    async def worker(resource: str) -> bool:
        own = await asyncpg.connect(postgres_url)
        try:
            await prepare(own, table(), resource=resource)
        except ReadModelMismatch:
            return False
        finally:
            await own.close()
        return True

    assert sorted(await asyncio.gather(*(worker(f"shop/p-{n}") for n in range(4)))) == [False, False, False, True]


async def test_a_projection_is_reset_only_while_it_is_stopped(conn: asyncpg.Connection) -> None:
    await positions.begin(conn, SCOPE, {("orders", 0): positions.Start(5, None)})
    streams = await projection.open_streams(conn, SCOPE, [("orders", 0, b"s")])
    await projection.raise_sequences(conn, {streams["orders", 0, b"s"]: {b"k": 7}})
    await projection.count(conn, SCOPE, [projection.Passed("orders", 0, 3, 1)])
    await prepare(conn, table())
    await conn.execute("INSERT INTO marty.worker VALUES ($1, 'pod-1', now() + '5 s')", f"{SCOPE}#orders")
    with pytest.raises(asyncpg.ObjectInUseError):
        await conn.execute("SELECT marty.reset_projection($1)", RESOURCE)
    await conn.execute("DELETE FROM marty.worker")
    await conn.execute("SELECT marty.reset_projection($1)", RESOURCE)
    for name in ("kafka_position", "projection_counter", "projection_stream", "projection_key", "projection_table"):
        assert await conn.fetchval(f"SELECT count(*) FROM marty.{name}") == 0


KEYS = st.tuples(st.sampled_from(["k1", "k2", "k3"]))
FIELDS = st.dictionaries(st.sampled_from(["status", "total"]), st.one_of(st.none(), st.integers(0, 9)), max_size=2).map(
    lambda fields: {n: str(v) if n == "status" and v is not None else v for n, v in fields.items()}
)


def change(effect: Effect, key: tuple[str], fields: Mapping[str, Any]) -> Change:
    columns = () if effect is Effect.DELETE else tuple(sorted(fields))
    return Change(effect, key, columns, tuple(fields[name] for name in columns))


BATCHES = st.lists(st.lists(st.builds(change, st.sampled_from(Effect), KEYS, FIELDS), max_size=12), max_size=3)


async def test_folded_batches_equal_their_changes_written_one_by_one(postgres_url: str) -> None:
    folded, plain = table(table="folded", indexes=[]), table(table="plain", indexes=[])
    conn = await asyncpg.connect(postgres_url)
    await prepare(conn, folded)
    await prepare(conn, plain)
    loop = asyncio.get_running_loop()

    async def both(batches: list[list[Change]]) -> tuple[list[Any], list[Any]]:
        transaction = conn.transaction()
        await transaction.start()
        try:
            for batch in batches:
                await read_model.write(conn, folded, fold(batch, ["status", "total"]))
                for one in batch:
                    await read_model.write(conn, plain, _alone(one))
            return (
                await conn.fetch("SELECT * FROM public.folded ORDER BY order_id"),
                await conn.fetch("SELECT * FROM public.plain ORDER BY order_id"),
            )
        finally:
            await transaction.rollback()

    @settings(max_examples=150, deadline=None)
    @given(BATCHES)
    def equal(batches: list[list[Change]]) -> None:
        together, alone = asyncio.run_coroutine_threadsafe(both(batches), loop).result(30)
        assert together == alone

    await asyncio.to_thread(equal)
    await conn.close()


def _alone(one: Change) -> Writes:
    """The statement of a single change, without folding."""
    write = Write(one.columns, [one.key], [[value] for value in one.values])
    match one.effect:
        case Effect.DELETE:
            return Writes(deletes=[one.key])
        case Effect.UPSERT:
            return Writes(upserts=[write])
        case Effect.UPDATE:
            return Writes(updates=[write] if one.columns else [])


async def test_a_batch_is_looked_up_in_the_index_even_when_the_table_was_small_at_first(
    conn: asyncpg.Connection,
) -> None:
    wanted = table(indexes=[])
    await prepare(conn, wanted)
    await conn.execute("INSERT INTO public.order_summary SELECT 'o-' || n, 'new', n FROM generate_series(1, 20000) n")
    await conn.execute("ANALYZE public.order_summary")
    transaction = conn.transaction()
    await transaction.start()
    await projection.prefer_indexes(conn)
    for sql, arguments in (
        (wanted.update(["total"]), [["o-1"] * 2000, [1] * 2000]),
        (wanted.delete(), [["o-1"] * 2000]),
        (projection.SEQUENCES, [[1] * 2000, [b"k"] * 2000]),
    ):
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {sql}", *arguments))
        assert "Index" in plan
        assert "Seq Scan" not in plan
    await transaction.rollback()
