"""What no peer offers, or what makes no difference to it: urgent events, a writer left open, what an event costs its writer."""

import asyncio
import re
import time
from typing import Final

import asyncpg

from bench.outbox.contenders import PUT, Contender, Stage, marty, stage
from bench.outbox.outcome import Figures, Outcome, Void, application, numbered, pgbench, vacuum, value, verified
from bench.outbox.rows import Numbers, live_rows
from bench.outbox.topic import percentile
from bench.outbox.work import CATCH_UP_SECONDS, DRAIN_SECONDS, HEAD
from bench.peers.meter import WAL

POISON_EVENTS: Final = 20
#: Part of the backlog that is drained before anything disturbs it.
ALONE: Final = 0.4
#: Numbers of urgent events begin far behind those of the backlog.
URGENT_FROM: Final = 1_000_000_000
WARM_UP_SECONDS: Final = 5


async def urgent(contender: Contender, events: int, rate: int) -> Outcome:
    """A backlog that is drained: normal events alone, then one aggregate that Kafka refuses, low ones, and high ones at a fixed rate."""
    numbers = Numbers()
    async with stage(contender) as it:
        alone = await numbers.load(it.site.url, it.insert, int(events * ALONE))
        await _poison(it)
        low = it.insert.replace("(lane,", "(priority, lane,").replace("SELECT ", "SELECT 0, ", 1)
        total = alone + await numbers.load(it.site.url, low, int(events * (1 - ALONE)))
        await value(it.site.url, f"ALTER SEQUENCE bench_number RESTART WITH {URGENT_FROM}")
        await vacuum(it.site.url)
        high = f"""SELECT count(marty.enqueue_event_bytes('{it.site.topic}', 'order_created', convert_to(payload, 'UTF8'),
                   'urgent-' || aggregate, 'order', priority => 'high')) FROM {live_rows(1)}""".replace("\n", " ")
        async with contender.start(it.site) as relay:
            head, began = await it.topic.reach(int(total * HEAD), DRAIN_SECONDS)
            half, then = await it.topic.reach(alone, DRAIN_SECONDS)
            writer = asyncio.create_task(pgbench(it, high, "-T", str(DRAIN_SECONDS), "-R", str(rate)))
            rest, again = await it.topic.reach(int(alone + total * HEAD), DRAIN_SECONDS)
            done, ended = await it.topic.reach(total, DRAIN_SECONDS)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            waited = await value(it.site.url, "SELECT count(*) FROM marty.outbox WHERE priority = 2")
            await it.topic.reach(total + waited, CATCH_UP_SECONDS)
            held = await value(it.site.url, "SELECT count(*) FROM marty.outbox_held WHERE aggregate_id = 'poison'")
            await relay.pause()
        found = it.topic.read()
    told = verified(contender.name, found, total + waited, ordered=False)
    if held != POISON_EVENTS:
        raise Void(f"{held} of {POISON_EVENTS} poisonous events are held")
    latencies = found.latencies_behind(URGENT_FROM - 1)
    disturbed = (done - rest) / (ended - again)
    figures: Figures = [
        ("urgent p50", percentile(latencies, 0.5), "ms"),
        ("urgent p99", percentile(latencies, 0.99), "ms"),
        ("urgent max", max(latencies), "ms"),
        ("urgent drain", disturbed, "/s"),
        # Of one run: seconds apart, the machine is the same.
        ("urgent share", disturbed / ((half - head) / (then - began)), ""),
    ]
    return Outcome(figures, {}, told | {"urgent events": str(len(latencies)), "poisonous events held": str(held)})


async def _poison(it: Stage) -> None:
    """Events of one aggregate whose topic refuses them: it does not exist."""
    await value(
        it.site.url,
        f"""INSERT INTO marty.outbox (lane, topic, event_type, aggregate_type, aggregate_id, payload)
            SELECT marty.lane_of('poison'), '{it.site.topic}-missing', 'order_created', 'order', 'poison', '{{}}'
              FROM generate_series(1, {POISON_EVENTS})""",
    )


async def open_writer(contender: Contender, rate: int, seconds: int) -> Outcome:
    """Three times as long at a fixed rate; in the middle third a transaction is left open that has written one event."""
    async with stage(contender) as it, contender.start(it.site) as relay:
        since = it.topic.ends()
        async with application(it, rate, WARM_UP_SECONDS, 3 * seconds) as last_before:
            conn = await asyncpg.connect(it.site.url)
            try:
                await asyncio.sleep(seconds)
                transaction = conn.transaction()
                await transaction.start()
                await conn.execute(f"SELECT {PUT[1]}")
                own, opened = await conn.fetchval("SELECT currval('bench_number')"), time.time()
                await asyncio.sleep(seconds)
                committed = time.time()
                await transaction.commit()
            finally:
                await conn.close()
        events = await numbered(it.site.url)
        await it.topic.reach(events, CATCH_UP_SECONDS)
        await relay.pause()
        found = it.topic.read(since)
    told = verified(contender.name, found, events, ordered=False)
    parts: dict[str, list[float]] = {"before": [], "during": [], "after": []}
    own_ms = 0.0
    for number, written, took_ms in zip(found.numbers, found.written, found.latencies_ms, strict=True):
        if number == own:
            own_ms = (written - committed) * 1e3 + took_ms
        elif number > last_before:
            parts["before" if written < opened else "during" if written < committed else "after"].append(took_ms)
    figures: Figures = [(f"open writer {name} p99", percentile(part, 0.99), "ms") for name, part in parts.items()]
    figures += [("open writer during max", max(parts["during"]), "ms"), ("open writer own event", own_ms, "ms")]
    return Outcome(figures, {}, told | {f"events {name}": str(len(part)) for name, part in parts.items()})


async def writers(contender: Contender | None, seconds: int) -> Outcome:
    """Transactions of an application that writes a row of its own and an event, or (None) no event; no relay is at work."""
    async with stage(contender or marty()) as it:
        await value(it.site.url, "CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY, note text)")
        own = "INSERT INTO business (note) VALUES ('an order of a customer')"
        script = ";\n".join(["BEGIN", own, *([f"SELECT {PUT[1]}"] if contender else []), "COMMIT"])
        before = await value(it.site.url, WAL)
        output = await pgbench(it, script, "-T", str(seconds))
        wal = await value(it.site.url, WAL) - before
        written = await value(it.site.url, "SELECT count(*) FROM business")
        events = await numbered(it.site.url)
    if contender and events != written:
        raise Void(f"{events} events beside {written} rows")
    rate = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
    assert rate is not None
    figures: Figures = [("writer", float(rate[1]), "/s"), ("writer wal", wal / written, "B")]
    return Outcome(figures, {}, {"rows": str(written), "events": str(events)})
