"""What every contender has to do: drain a backlog, and keep up with an application."""

from collections.abc import Sequence
from typing import Final

from bench.outbox.contenders import Contender, stage
from bench.outbox.outcome import Figures, Outcome, application, metered, numbered, vacuum, verified
from bench.outbox.rows import Numbers
from bench.outbox.topic import percentile

#: A drain that takes longer hangs; so does a relay that has not caught up with an application by then.
DRAIN_SECONDS: Final = 600
CATCH_UP_SECONDS: Final = 60
#: The measurement of a drain begins when this part of it is done: neither a start nor a cold cache is measured.
HEAD: Final = 0.05


async def drain(contender: Contender, events: int) -> Outcome:
    """A backlog from 5 % on until all of it is in Kafka; a smaller one before it has warmed up whoever needs that."""
    numbers = Numbers()
    events = int(events * contender.share)
    async with stage(contender) as it, contender.start(it.site) as relay:
        warm = await numbers.load(it.site.url, it.insert, max(events // 4, 10_000), contender.after_each)
        await it.topic.reach(warm, DRAIN_SECONDS)
        await relay.pause()
        total = warm + await numbers.load(it.site.url, it.insert, events, contender.after_each)
        await vacuum(it.site.url)
        async with metered(it, relay) as cost:
            await relay.resume()
            at, began = await it.topic.reach(warm + int((total - warm) * HEAD), DRAIN_SECONDS)
            cost.watch(relay.pids)
            await cost.begin()
            _, ended = await it.topic.reach(total, DRAIN_SECONDS)
            await cost.end()
        await relay.pause()
        found = it.topic.read()
    told = verified(contender.name, found, total, ordered=True)
    drained = total - at
    figures: Figures = [("drain", drained / (ended - began), "/s")]
    figures += [(f"drain cpu {name}", used / drained * 1e6, "µs") for name, used in sorted(cost.cpu_seconds.items())]
    figures.append(("drain cpu", sum(cost.cpu_seconds.values()) / drained * 1e6, "µs"))
    return Outcome(figures, cost.cpu_seconds, told)


async def live(contender: Contender, rates: Sequence[int], warm_up_seconds: int, seconds: int) -> Outcome:
    """An application that inserts at fixed rates; how long after its insert an event is in Kafka, the commit included."""
    figures: Figures = []
    used: dict[str, float] = {}
    told: dict[str, str] = {}
    last = 0
    async with stage(contender) as it, contender.start(it.site) as relay:
        for rate in rates:
            written, since = last, it.topic.ends()
            async with metered(it, relay) as cost:
                async with application(it, rate, warm_up_seconds, seconds) as last_before:
                    await cost.begin()
                await cost.end()
            last = await numbered(it.site.url)
            await it.topic.reach(last, CATCH_UP_SECONDS)
            found = it.topic.read(since)
            told |= {
                f"{name} at {rate}/s": words
                for name, words in verified(contender.name, found, last - written, ordered=False).items()
            }
            used |= {f"{name} at {rate}/s": spent for name, spent in cost.cpu_seconds.items()}
            events = last - last_before
            latencies_ms = found.latencies_behind(last_before)
            figures.append((f"live {rate} cpu", sum(cost.cpu_seconds.values()) / events * 1e6, "µs"))
            figures += [
                (f"live {rate} {name}", percentile(latencies_ms, share), "ms")
                for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
            ]
        await relay.pause()
    return Outcome(figures, used, told)
