"""The projector on a real Kafka and a real Postgres."""

from collections.abc import Callable

import asyncpg
import pytest

from marty_msf.core.worker_status import ProblemReason
from tests.integration.projection.support import (
    SCOPE,
    Event,
    applied,
    confirmed,
    created,
    deleted,
    projecting,
    publish,
    rows,
    spec,
    totals,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

Topics = Callable[..., str]


async def test_rows_follow_the_events_of_their_order(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders")
    events = [created(n, sequence=n + 1) for n in range(300)]
    events += [confirmed(n, sequence=1000 + n) for n in range(0, 300, 2)]
    events += [deleted(n, sequence=2000 + n) for n in range(0, 300, 3)]
    events.append(Event("o-1", "payment_seen", {"any": "thing"}, sequence=3000))
    publish(kafka_bootstrap, topic, events)

    async with projecting(postgres_url, spec(kafka_bootstrap, topic, batch_size=100)) as running:
        await eventually(lambda: applied(conn), lambda count: count == len(events))
        lag = await running.kafka.lag()

    assert await rows(conn) == {
        f"o-{n}": (f"c-{n % 7}", "confirmed" if n % 2 == 0 else "created", n) for n in range(300) if n % 3
    }
    assert await totals(conn) == (len(events), 0)
    assert (lag.events, lag.seconds) == (0, 0)


async def test_a_window_sent_again_by_a_crashed_relay_changes_nothing(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=2)
    window = [created(n, sequence=n + 1) for n in range(50)] + [confirmed(n, sequence=100 + n) for n in range(50)]
    publish(kafka_bootstrap, topic, [*window, *window])

    async with projecting(postgres_url, spec(kafka_bootstrap, topic, batch_size=30)):
        await eventually(lambda: applied(conn), lambda count: count == 200)
        # Late, after another worker's life: what was applied is remembered in Postgres.
    publish(kafka_bootstrap, topic, window)
    async with projecting(postgres_url, spec(kafka_bootstrap, topic, batch_size=30), holder="pod-2/b"):
        await eventually(lambda: applied(conn), lambda count: count == 300)

    assert {status for _, status, _ in (await rows(conn)).values()} == {"confirmed"}
    assert await totals(conn) == (100, 200)


async def test_events_without_a_sequence_are_applied_each_time(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(1), confirmed(1), created(1)])

    async with projecting(postgres_url, spec(kafka_bootstrap, topic)):
        await eventually(lambda: applied(conn), lambda count: count == 3)

    assert await rows(conn) == {"o-1": ("c-1", "created", 1)}
    assert await totals(conn) == (3, 0)


async def test_the_same_key_in_two_sources_has_two_sequences(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    other = Event("o-1", "order_confirmed", {"order_id": "o-1"}, sequence=3, source="/marty/other/order")
    publish(kafka_bootstrap, topic, [created(1, sequence=10), other])

    async with projecting(postgres_url, spec(kafka_bootstrap, topic)):
        await eventually(lambda: applied(conn), lambda count: count == 2)

    assert await rows(conn) == {"o-1": ("c-1", "confirmed", 1)}


async def test_a_poison_event_stops_only_its_partition_until_the_mapping_is_mended(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=2)
    poison = created(2, sequence=2, total="seven")
    publish(kafka_bootstrap, topic, [created(1, sequence=1), poison, created(3, sequence=3)], partition=0)
    publish(kafka_bootstrap, topic, [created(n, sequence=n) for n in range(10, 20)], partition=1)

    async with projecting(postgres_url, spec(kafka_bootstrap, topic)) as running:
        await eventually(lambda: applied(conn), lambda count: count == 11)
        (problem,) = running.board.current()
        lag = await running.kafka.lag()
    assert problem.reason is ProblemReason.POISON_EVENT
    assert not problem.blocking
    for part in (topic, "partition 0", "offset 1", "o-2-2", "total", "'seven'", "bigint", "int(…)"):
        assert part in problem.message
    assert lag.events == 2
    assert set(await rows(conn)) == {"o-1", *(f"o-{n}" for n in range(10, 20))}

    mended = spec(
        kafka_bootstrap,
        topic,
        events={"order_created": {"upsert": {"total": "type(event.total) == string ? 0 : event.total"}}},
    )
    async with projecting(postgres_url, mended, holder="pod-2/b") as running:
        await eventually(lambda: applied(conn), lambda count: count == 13)
        assert running.board.current() == []
    assert (await rows(conn))["o-2"] == (None, None, 0)
    assert (await rows(conn))["o-3"] == (None, None, 3)


async def test_an_event_that_postgres_refuses_is_found_among_its_batch(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    value = spec(kafka_bootstrap, topic)
    publish(kafka_bootstrap, topic, [created(n, sequence=n + 1) for n in range(40)])

    async with projecting(postgres_url, value, drive=False) as running:
        await conn.execute("ALTER TABLE public.order_summary ADD CHECK (total <> 25)")
        await eventually(running.projector.run_once, lambda _: bool(running.board.current()))
        (problem,) = running.board.current()
    assert problem.reason is ProblemReason.POISON_EVENT
    assert problem.blocking
    assert "offset 25" in problem.message
    assert "order_summary_total_check" in problem.message
    assert await applied(conn) == 25
    assert len(await rows(conn)) == 25

    await conn.execute("ALTER TABLE public.order_summary DROP CONSTRAINT order_summary_total_check")
    async with projecting(postgres_url, value, holder="pod-2/b"):
        await eventually(lambda: applied(conn), lambda count: count == 40)
    assert len(await rows(conn)) == 40


async def test_partitions_move_to_a_second_worker_and_no_event_is_applied_twice(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=4)
    value = spec(kafka_bootstrap, topic, batch_size=20)
    # Every update of a row is counted by the database, so an event applied twice shows.
    async with projecting(postgres_url, value) as first:
        await conn.execute(
            """
            CREATE TABLE public.seen (order_id text, total bigint);
            CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO public.seen VALUES (NEW.order_id, NEW.total); RETURN NULL; END $$;
            CREATE TRIGGER note AFTER INSERT OR UPDATE ON public.order_summary FOR EACH ROW EXECUTE FUNCTION public.note();
            """
        )
        publish(kafka_bootstrap, topic, [created(n, sequence=n + 1) for n in range(200)])
        async with projecting(postgres_url, value, holder="pod-2/b") as second:

            async def shares() -> tuple[int, int]:
                return first.kafka.owned, second.kafka.owned

            await eventually(shares, lambda owned: owned == (2, 2))
            publish(kafka_bootstrap, topic, [created(n, sequence=n + 1) for n in range(200, 600)])
            await eventually(lambda: applied(conn), lambda count: count == 600)
        # The second one is gone: the first takes everything over.
        publish(kafka_bootstrap, topic, [created(n, sequence=n + 1) for n in range(600, 700)])
        await eventually(lambda: applied(conn), lambda count: count == 700)

    assert len(await rows(conn)) == 700
    assert await conn.fetchval("SELECT count(*) FROM public.seen") == 700
    assert await totals(conn) == (700, 0)


async def test_a_former_owner_writes_nothing(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(1, sequence=1)])

    async with projecting(postgres_url, spec(kafka_bootstrap, topic), drive=False) as running:
        await eventually(running.projector.run_once, lambda done: done.read == 1)
        # Another process takes the lease over while our batch is folded but not stored.
        await conn.execute("UPDATE marty.lease SET holder = 'pod-9/z', epoch = epoch + 1, expires_at = now() + '5 s'")
        done = await running.projector.run_once()
        assert done.repeated
        assert await rows(conn) == {}
        assert await applied(conn) == 0
        # It expires, and the work goes on.
        await eventually(running.projector.run_once, lambda done: done.stored == 1)
    assert await rows(conn) == {"o-1": ("c-1", "created", 1)}


async def test_a_commit_whose_answer_was_lost_is_not_repeated(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(1)])

    async with projecting(postgres_url, spec(kafka_bootstrap, topic), drive=False) as running:
        await eventually(running.projector.run_once, lambda done: done.read == 1)
        # As if our transaction had committed: the position is behind the event, and a person changed the row since.
        await conn.execute("UPDATE marty.kafka_position SET next_offset = 1 WHERE scope = $1", SCOPE)
        done = await running.projector.run_once()
        assert done.repeated
        publish(kafka_bootstrap, topic, [created(2)])
        await eventually(running.projector.run_once, lambda done: done.stored == 1)
    assert set(await rows(conn)) == {"o-2"}


async def test_deleting_and_creating_a_row_again_leaves_nothing_of_the_old_one(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    value = spec(
        kafka_bootstrap,
        topic,
        events={
            "order_created": {"upsert": {"customer_id": "event.customer_id", "total": "event.total"}},
            "order_confirmed": {"upsert": {"status": "'confirmed'"}},
            "order_deleted": {"delete": True},
        },
    )
    publish(kafka_bootstrap, topic, [created(1, sequence=1)])
    async with projecting(postgres_url, value):
        await eventually(lambda: applied(conn), lambda count: count == 1)
        publish(kafka_bootstrap, topic, [deleted(1, sequence=2), confirmed(1, sequence=3)])
        await eventually(lambda: applied(conn), lambda count: count == 3)
    assert await rows(conn) == {"o-1": (None, "confirmed", None)}


async def test_rows_refused_in_several_partitions_are_all_found_and_the_rest_flows_on(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=3)
    value = spec(kafka_bootstrap, topic)
    for partition in range(3):
        publish(kafka_bootstrap, topic, [created(100 * partition + n) for n in range(10)], partition)

    async with projecting(postgres_url, value, drive=False) as running:
        await conn.execute("ALTER TABLE public.order_summary ADD CHECK (total NOT IN (3, 107))")

        async def work() -> int:
            await running.projector.run_once()
            return await applied(conn)

        await eventually(work, lambda count: count == 3 + 7 + 10)
        await eventually(
            running.projector.run_once, lambda _: "partition 1 offset 7" in running.board.current()[0].message
        )
        (problem,) = running.board.current()
        assert not problem.blocking
        assert "partition 0 offset 3" in problem.message
        assert "o-3, c-3" not in problem.message  # rows may hold what nobody should read in a status
        publish(kafka_bootstrap, topic, [created(999)], partition=2)
        await eventually(work, lambda count: count == 21)
    assert len(await rows(conn)) == 21


async def test_an_event_held_back_is_read_again_when_what_came_before_it_was_rolled_back(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    value = spec(kafka_bootstrap, topic, batch_size=5)
    publish(kafka_bootstrap, topic, [*(created(n) for n in range(8)), created(8, total="many")])

    async with projecting(postgres_url, value, drive=False) as running:
        await eventually(running.projector.run_once, lambda done: done.read == 5)
        # The first batch is refused once, as after a lost answer, while the second one meets the poison event.
        await conn.execute("UPDATE marty.kafka_position SET next_offset = 1 WHERE scope = $1", SCOPE)
        await eventually(running.projector.run_once, lambda done: done.repeated)
        await conn.execute("UPDATE marty.kafka_position SET next_offset = 0 WHERE scope = $1", SCOPE)

        async def work() -> int:
            await running.projector.run_once()
            return await applied(conn)

        await eventually(work, lambda count: count == 8)
        await eventually(running.projector.run_once, lambda _: bool(running.board.current()))
        (problem,) = running.board.current()
        assert "offset 8" in problem.message
    assert len(await rows(conn)) == 8
