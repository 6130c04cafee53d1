"""Steps over Kafka on a real broker and a real Postgres: commands, replies, time-outs, and what may go wrong in between."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from marty_msf.core.worker_config import SagaConfig
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import saga_verb
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.calling.calls import Caller
from marty_msf.worker.saga.engine import Engine
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.kafka_service import Answer, Command, obliging, serving
from tests.integration.saga.sagas import RESOURCE, Shop, pool_of, spec, states, told
from tests.support import kafka
from tests.support.broker import broker
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]


@dataclass(frozen=True)
class Place:
    """The servers and topics of a test."""

    url: str
    bootstrap: str
    commands: str
    replies: str

    def step(self, name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "call": {"kafka": {"commandTopic": self.commands, "replyTopic": self.replies}}, **more}

    def saga(self, *steps: dict[str, Any], **fields: Any) -> SagaConfig:
        plan = spec(*steps, kafka={"bootstrapServers": self.bootstrap}, **fields)
        return SagaConfig(namespace="shop", name="orders", spec=plan)

    def order(self, **fields: Any) -> SagaConfig:
        return self.saga(
            self.step("reserve", compensation="release"),
            self.step("charge", compensation="refund", pivot=True),
            self.step("confirm"),
            **fields,
        )


@pytest.fixture
def place(postgres_url: str, kafka_bootstrap: str, topic_factory: Callable[..., str]) -> Place:
    return Place(postgres_url, kafka_bootstrap, topic_factory("commands", 2), topic_factory("replies", 2))


@dataclass
class Working:
    role: SagaRole
    engine: Engine
    board: Board

    async def start(self, key: str, **context: Any) -> str:
        return (await self.engine.start(key, context)).saga_id

    def reasons(self) -> list[ProblemReason]:
        return [problem.reason for problem in self.board.current()]


@asynccontextmanager
async def working(place: Place, saga: SagaConfig, caller: Caller | None = None) -> AsyncIterator[Working]:
    board = Board()
    async with pool_of(place.url) as pool:
        context = Context(pool, f"test/{secrets.token_hex(4)}", RESOURCE, board, new_registry(board))
        role = SagaRole(context, saga, caller)
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        try:
            await eventually(told(lambda: task.done() or (role.engine is not None and role.engine.ready.is_set())))
            if task.done():
                task.result()
            assert role.engine is not None
            yield Working(role, role.engine, board)
            stop.set()
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})


async def all_ended(conn: asyncpg.Connection, count: int) -> dict[str, int]:
    live = {"Pending", "Waiting", "Running", "Compensating"}
    found = await eventually(
        lambda: states(conn),
        lambda found: sum(found.values()) == count and not live & found.keys(),
        seconds=30,
    )
    return dict(found)


async def no_reply_is_left(conn: asyncpg.Connection) -> None:
    await eventually(lambda: conn.fetchval("SELECT count(*) FROM marty.saga_reply"), lambda left: left == 0)


async def parked(conn: asyncpg.Connection) -> Sequence[Any]:
    return list(await conn.fetch("SELECT topic, event_id, error FROM marty.saga_parked_event ORDER BY parked_at"))


def declining(command: Command) -> Sequence[Answer]:
    """The payment of some orders is refused."""
    if command.action == "charge" and command.body["context"].get("decline"):
        return [("rejected", {"reason": "no money"})]
    return obliging(command)


async def test_one_reply_answers_one_call(place: Place, conn: asyncpg.Connection) -> None:
    """Naive: the row of a reply that was used is still there when the next call begins, and answers that one too."""

    def failing_once(command: Command) -> Sequence[Answer]:
        if command.action != "charge":
            return obliging(command)
        return [] if service.keys("charge")[1:] else [("failed", {"reason": "busy"})]

    retry = {"attempts": 2, "initialBackoffMs": 1, "maxBackoffMs": 1, "jitter": 0}
    saga = place.saga(place.step("reserve", compensation="release"), place.step("charge", retry=retry))
    with serving(place.bootstrap, place.commands, failing_once) as service:
        async with working(place, saga) as it:
            await it.start("one", order=1)
            await eventually(told(lambda: len(service.keys("charge"))), lambda count: count == 2)
            await no_reply_is_left(conn)
            charge = [command for command in service.commands if command.action == "charge"][-1]
            service.reply(charge, "succeeded", {})
            assert await all_ended(conn, 1) == {"Completed": 1}
    assert service.keys("release") == []


async def test_commands_and_replies_run_a_saga_forward_and_back(place: Place, conn: asyncpg.Connection) -> None:
    with serving(place.bootstrap, place.commands, declining) as service:
        async with working(place, place.order()) as it:
            good, bad = await it.start("good", order=1), await it.start("bad", order=2, decline=True)
            assert await all_ended(conn, 2) == {"Completed": 1, "Compensated": 1}
            assert it.board.current() == []
            await no_reply_is_left(conn)
    actions = {saga: [c.action for c in service.commands if c.body["saga_id"] == saga] for saga in (good, bad)}
    assert actions == {good: ["reserve", "charge", "confirm"], bad: ["reserve", "charge", "release"]}
    reserve = next(c for c in service.commands if c.body["saga_id"] == good)
    assert reserve.key == good.encode()
    assert reserve.body == {"saga_id": good, "step": "reserve", "context": {"order": 1}, "data": {}}
    assert reserve.headers.items() >= {
        "ce_specversion": "1.0", "ce_id": f"{good}:reserve:do:1", "ce_type": "reserve", "ce_subject": good,
        "ce_source": "/marty/saga/shop/orders", "content-type": "application/json", "reply-topic": place.replies,
        "idempotency-key": f"{good}:reserve:do:1", "correlation-id": f"shop/orders/{good}:reserve:do:1",
    }.items()  # fmt: skip
    assert reserve.headers["traceparent"].startswith("00-")
    undo = next(c for c in service.commands if c.action == "release")
    assert (undo.idempotency_key, undo.body["result"]) == (f"{bad}:reserve:undo:1", {"reservation": "r-1"})
    error = await conn.fetchval("SELECT error FROM marty.saga_instance WHERE state = 'Compensated'")
    assert "no money" in error
    assert place.replies in error


async def test_one_saga_mixes_forms_of_calls_and_a_key_of_its_own_chooses_the_partition(
    place: Place, conn: asyncpg.Connection
) -> None:
    shop = Shop()
    charge = place.step("charge", compensation="refund")
    charge["call"]["kafka"]["key"] = "context.order"
    saga = place.saga({"name": "reserve", "compensation": "release"}, charge, {"name": "confirm"})
    with serving(place.bootstrap, place.commands, obliging) as service:
        async with working(place, saga, shop.caller()) as it:
            first = await it.start("first", order="o-7")
            await it.start("keyless", other=1)
            assert await all_ended(conn, 2) == {"Completed": 1, "Parked": 1}
    assert [c.key for c in service.commands] == [b"o-7"]
    assert shop.order[first] == ["reserve", "confirm"]
    error = await conn.fetchval("SELECT error FROM marty.saga_instance WHERE state = 'Parked'")
    assert "spec.steps[1].call.kafka.key: 'context.order' gave None" in error


async def test_waiting_for_replies_takes_no_place_of_the_workers(place: Place, conn: asyncpg.Connection) -> None:
    with serving(place.bootstrap, place.commands, lambda _: ()) as service:
        async with working(place, place.saga(place.step("reserve"), workers=1)) as it:
            await asyncio.gather(*(it.start(f"order-{n}", n=n) for n in range(300)))
            await eventually(told(lambda: len(service.commands)), lambda count: count == 300)
            for command in list(service.commands):
                service.reply(command, "succeeded")
            assert await all_ended(conn, 300) == {"Completed": 300}
    assert len({c.idempotency_key for c in service.commands}) == 300


async def test_a_missing_reply_is_asked_for_again_with_the_same_key_and_bytes(
    place: Place, conn: asyncpg.Connection
) -> None:
    """The service forgets its first reply, and each later one comes twice."""

    def forgetful(command: Command) -> Sequence[Answer]:
        seen = service.keys(command.action)
        return () if command.action == "charge" and len(seen) == 1 else [*obliging(command), *obliging(command)]

    saga = place.saga(place.step("reserve"), place.step("charge", timeoutMs=300), place.step("confirm"))
    with serving(place.bootstrap, place.commands, forgetful) as service:
        async with working(place, saga) as it:
            instance = await it.start("order", order=1)
            assert await all_ended(conn, 1) == {"Completed": 1}
            await no_reply_is_left(conn)
            assert it.board.current() == []
        charges = [c for c in service.commands if c.action == "charge"]
        assert [c.idempotency_key for c in charges] == [f"{instance}:charge:do:1"] * len(charges)
        assert len(charges) == 2
        assert len({c.value for c in charges}) == 1
        assert service.keys("confirm") == [f"{instance}:confirm:do:1"]
    assert await parked(conn) == []


async def test_a_reply_that_comes_after_its_time_out_is_the_answer_of_the_next_call(
    place: Place, conn: asyncpg.Connection
) -> None:
    slow = {"attempts": 2, "initialBackoffMs": 60_000, "maxBackoffMs": 60_000}
    saga = place.saga(place.step("charge", compensation="refund", timeoutMs=200, retry=slow))
    with serving(place.bootstrap, place.commands, lambda _: ()) as service:
        async with working(place, saga) as it:
            await it.start("order", order=1)
            entries = "SELECT count(*) FROM marty.saga_journal"
            await eventually(lambda: conn.fetchval(entries), lambda count: count == 2)
            service.reply(service.commands[0], "succeeded", {"paid": True})
            # It does not wait for the minute of backoff, and no second command goes out.
            assert await all_ended(conn, 1) == {"Completed": 1}
            await no_reply_is_left(conn)
        assert len(service.commands) == 1


async def test_a_success_that_comes_when_the_step_was_given_up_is_undone(
    place: Place, conn: asyncpg.Connection
) -> None:
    def mute(command: Command) -> Sequence[Answer]:
        return () if command.action == "charge" else obliging(command)

    once = {"attempts": 1, "initialBackoffMs": 5, "maxBackoffMs": 5}
    saga = place.saga(place.step("charge", compensation="refund", timeoutMs=200, retry=once))
    with serving(place.bootstrap, place.commands, mute) as service:
        async with working(place, saga) as it:
            instance = await it.start("order", order=1)
            assert await all_ended(conn, 1) == {"Compensated": 1}
            service.reply(service.commands[0], "succeeded", {"paid": True})
            service.send(place.replies, {"correlation-id": "shop/orders/nonsense", "marty-outcome": "succeeded"})
            await eventually(lambda: parked(conn))
        assert [c.action for c in service.commands] == ["charge", "refund"]
        assert service.commands[1].body["result"] is None
    assert await conn.fetchval("SELECT state FROM marty.saga_instance WHERE id = $1", instance) == "Compensated"


async def test_what_is_no_reply_of_ours_is_kept_aside_and_the_others_go_on(
    place: Place, conn: asyncpg.Connection
) -> None:
    with serving(place.bootstrap, place.commands, lambda _: ()) as service:
        async with working(place, place.saga(place.step("charge"))) as it:
            instance = await it.start("order", order=1)
            await eventually(told(lambda: len(service.commands)))
            stranger = "018f3c00-0000-7000-8000-000000000000"
            ok = {"marty-outcome": "succeeded"}
            service.send(place.replies, {**ok, "correlation-id": f"shop/orders/{stranger}:charge:do:1"})
            service.send(place.replies, {**ok, "correlation-id": f"shop/orders/{instance}:ship:do:1"})
            service.send(place.replies, {**ok, "correlation-id": f"shop/orders/{instance}:charge:do:x\0"})
            service.send(place.replies, ok, b"\xff\0")
            service.send(
                place.replies, {"correlation-id": f"shop/orders/{instance}:charge:do:1", "marty-outcome": "ok"}
            )
            service.send(place.replies, {**ok, "correlation-id": f"shop/other/{stranger}:charge:do:1"})
            service.reply(service.commands[0], "succeeded", [1, 2])
            assert await all_ended(conn, 1) == {"Completed": 1}
            rows = await eventually(lambda: parked(conn), lambda rows: len(rows) == 5)
            await eventually(told(lambda: it.reasons() == [ProblemReason.POISON_EVENT]))
            assert not it.board.blocked
    errors = sorted(row["error"] for row in rows)
    assert [error.partition(":")[0][:60] for error in errors] == [
        f"correlation-id 'shop/orders/{instance}"[:60],
        f"instance {instance} has no step 'ship' that is called over Kafka"[:60],
        f"saga shop/orders has no instance {stranger}"[:60],
        "the reply has no correlation-id header",
        "the reply's marty-outcome header is 'ok'",
    ]


async def test_a_missing_topic_burns_no_attempt_and_is_told(
    place: Place, conn: asyncpg.Connection, topic_factory: Callable[..., str]
) -> None:
    missing = f"missing-{secrets.token_hex(4)}"
    step = place.step("charge", retry={"attempts": 1, "initialBackoffMs": 5, "maxBackoffMs": 5}, timeoutMs=1000)
    step["call"]["kafka"]["commandTopic"] = missing
    async with working(place, place.saga(place.step("reserve"), step)) as it:
        with serving(place.bootstrap, place.commands, obliging):
            await it.start("order", order=1)
            await eventually(told(lambda: it.reasons() == [ProblemReason.TOPIC_UNAVAILABLE]))
        (problem,) = it.board.current()
        assert (missing in problem.message, problem.blocking, problem.unmet) == (True, False, True)
        assert await states(conn) == {"Running": 1}
        await asyncio.to_thread(kafka.create_topic, place.bootstrap, missing, 1)
        try:
            with serving(place.bootstrap, missing, obliging):
                assert await all_ended(conn, 1) == {"Completed": 1}
                await eventually(told(it.board.current), lambda found: not found, seconds=60)
        finally:
            kafka.delete_topics(place.bootstrap, [missing])


async def test_what_was_not_sent_yet_is_not_sent_after_pause_and_cancel(
    place: Place, conn: asyncpg.Connection, topic_factory: Callable[..., str]
) -> None:
    """The topic of its commands is missing, as it is while Kafka is away: neither verb waits for it."""
    missing = f"missing-{secrets.token_hex(4)}"
    step = place.step("charge", timeoutMs=20_000)
    step["call"]["kafka"]["commandTopic"] = missing
    async with working(place, place.saga(place.step("reserve", compensation="release"), step)) as it:
        with serving(place.bootstrap, place.commands, obliging) as reserving:
            paused, cancelled = [UUID(await it.start(key, order=1)) for key in ("paused", "cancelled")]
            await eventually(told(lambda: it.reasons() == [ProblemReason.TOPIC_UNAVAILABLE]))
            await saga_verb.ask(conn, [paused], "pause", b"{}", "ann")
            await saga_verb.ask(conn, [cancelled], "cancel", b"{}", "ann")
            await eventually(lambda: states(conn), lambda found: found == {"Running": 1, "Cancelled": 1})
            assert reserving.keys("release") == [f"{cancelled}:reserve:undo:1"]
            await asyncio.to_thread(kafka.create_topic, place.bootstrap, missing, 1)
            try:
                with serving(place.bootstrap, missing, obliging) as charging:
                    # One that may be sent comes behind them.
                    await it.start("behind", order=2)
                    await eventually(lambda: states(conn), lambda found: found["Completed"] == 1, seconds=30)
                    assert len(charging.commands) == 1
                    await saga_verb.ask(conn, [paused], "resume", b"{}", "ann")
                    assert await all_ended(conn, 3) == {"Completed": 2, "Cancelled": 1}
                    assert charging.keys("charge")[1:] == [f"{paused}:charge:do:1"]
            finally:
                kafka.delete_topics(place.bootstrap, [missing])


async def test_an_outage_of_kafka_burns_no_attempt_of_what_waits_for_it(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    """The only attempt of one call was sent before the outage and times out in it; another waits to be sent."""
    once = {"attempts": 1, "initialBackoffMs": 5, "maxBackoffMs": 5}
    async with broker(tmp_path) as own:
        place = Place(postgres_url, own.bootstrap, "commands", "replies")
        for topic in (place.commands, place.replies):
            await asyncio.to_thread(kafka.create_topic, own.bootstrap, topic, 1)
        saga = place.saga(place.step("charge", timeoutMs=3500, retry=once))
        with serving(own.bootstrap, place.commands, lambda _: ()) as service:
            async with working(place, saga) as it:
                await it.start("sent", order=1)
                await eventually(told(lambda: len(service.commands)))
                await own.kill()
                began = time.monotonic()
                await eventually(told(lambda: it.reasons() == [ProblemReason.BROKER_UNAVAILABLE]))
                assert not it.board.blocked
                await it.start("waiting", order=2)
                await eventually(told(lambda: time.monotonic() - began > 4))
                assert await states(conn) == {"Running": 2}
                await own.start()
                await eventually(told(lambda: len({c.idempotency_key for c in service.commands}) == 2), seconds=30)
                for command in list(service.commands):
                    service.reply(command, "succeeded")
                assert await all_ended(conn, 2) == {"Completed": 2}
                await eventually(told(it.board.current), lambda found: not found, seconds=60)


async def test_a_reply_that_is_stored_when_an_instance_is_taken_up_is_used_instead_of_a_second_command(
    place: Place, conn: asyncpg.Connection
) -> None:
    saga = place.saga(place.step("charge", compensation="refund", timeoutMs=60_000))
    with serving(place.bootstrap, place.commands, lambda _: ()) as service:
        async with working(place, saga) as it:
            instance = await it.start("order", order=1)
            await eventually(told(lambda: len(service.commands)))
        lane = await conn.fetchval("SELECT lane FROM marty.saga_instance")
        await conn.execute(
            "INSERT INTO marty.saga_reply (resource, id, call, lane, outcome, value)"
            " VALUES ($1, $2, 'charge:do:1', $3, 'succeeded', $4)",
            RESOURCE, instance, lane, b'{"paid": true}',
        )  # fmt: skip
        async with working(place, saga):
            assert await all_ended(conn, 1) == {"Completed": 1}
            await no_reply_is_left(conn)
        assert len(service.commands) == 1
    entries = [row[0] for row in await conn.fetch("SELECT entry FROM marty.saga_journal ORDER BY seq")]
    assert orjson.loads(entries[-1].partition(b"\n")[0])[1:] == ["ok", {"paid": True}]


async def test_replies_reach_an_instance_of_an_earlier_definition_after_its_reply_topic_was_edited_away(
    place: Place, conn: asyncpg.Connection, topic_factory: Callable[..., str]
) -> None:
    later = Place(place.url, place.bootstrap, place.commands, topic_factory("later", 1))
    with serving(place.bootstrap, place.commands, lambda _: ()) as service:
        async with working(place, place.saga(place.step("charge", timeoutMs=60_000))) as it:
            await it.start("order", order=1)
            await eventually(told(lambda: len(service.commands)))
        async with working(later, later.saga(later.step("charge", timeoutMs=60_000))) as it:
            await eventually(told(lambda: len(service.commands) >= 2))
            assert {c.headers["reply-topic"] for c in service.commands} == {place.replies}
            service.reply(service.commands[0], "succeeded")
            assert await all_ended(conn, 1) == {"Completed": 1}


async def test_a_breaker_holds_commands_back_when_replies_stay_away(place: Place, conn: asyncpg.Connection) -> None:
    breaker = {"failureThreshold": 2, "openSeconds": 1}
    many = {"attempts": 20, "initialBackoffMs": 5, "maxBackoffMs": 20}
    saga = place.saga(place.step("charge", timeoutMs=100, retry=many, circuitBreaker=breaker))
    replies: list[Answer] = []
    with serving(place.bootstrap, place.commands, lambda _: replies) as service:
        async with working(place, saga) as it:
            await asyncio.gather(*(it.start(f"order-{n}", n=n) for n in range(5)))
            circuits = it.engine.breakers.circuits
            await eventually(told(lambda: circuits["shop"].generation if "shop" in circuits else 0), lambda n: n >= 3)
            assert len(service.commands) < 20
            replies.append(("succeeded", None))
            assert await all_ended(conn, 5) == {"Completed": 5}
