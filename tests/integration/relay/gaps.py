"""Kills a pass of the relay in every gap between two of its effects, each time on a database and a topic of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.support.effects import killed_before, killed_in, recorded
from tests.support.postgres import database
from tests.support.processes import running

RECORDED_PASSES = 2


async def try_every_gap(
    module: str,
    kinds: Sequence[str],
    shortest_pass: int,
    template: str,
    bootstrap: str,
    topic_factory: Callable[..., str],
    directory: Path,
    *,
    given: Callable[[str, str], Awaitable[None]],
    then: Callable[[str, str, str], Awaitable[None]],
) -> None:
    """`given(url, topic)` makes the events, `then(url, topic, where)` has a successor finish, and looks at the topic."""
    passes = []
    for number in range(RECORDED_PASSES):
        journal = directory / f"recorded{number}"
        async with database(template) as url:
            await given(url, topic_factory("whole"))
            await _pass(module, url, bootstrap, journal, None)
        passes.append(recorded(journal))

    # Two at a time: most of a try is the start of a process.
    slots = asyncio.Semaphore(2)

    def number_of(gap: int | str) -> int:
        return gap if isinstance(gap, int) else 1000 + kinds.index(gap)

    async def try_gap(gap: int | str) -> str | None:
        """The effect before which the relay was killed; None when no pass was that long (had such an effect)."""
        async with slots:
            for attempt in range(5):
                topic = topic_factory(f"gap{number_of(gap)}")
                journal = directory / f"gap{number_of(gap)}-{attempt}"
                async with database(template) as url:
                    await given(url, topic)
                    await _pass(module, url, bootstrap, journal, gap)
                    if killed_in(journal) == gap or (isinstance(gap, str) and killed_in(journal) is not None):
                        effect = killed_before(journal)
                        await then(url, topic, f"gap {gap} ({effect})")
                        return effect
                passes.append(recorded(journal))
            return None

    tried = await asyncio.gather(*(try_gap(gap) for gap in range(max(map(len, passes)))))
    # Reading, sending and settling overlap, so passes differ in length by a read or a position more or less. Every gap
    # that every whole pass has must have been tried, and a gap before each kind of effect.
    certain = min(map(len, passes))
    assert certain >= shortest_pass, passes
    assert all(tried[:certain]), f"gap {tried.index(None)} of {certain} was not tried"
    # Where a kind comes differs from pass to pass: what the numbers missed is tried by its name.
    missed = [kind for kind in kinds if not any(kind in effect for effect in tried if effect)]
    for kind, effect in zip(missed, await asyncio.gather(*map(try_gap, missed)), strict=True):
        assert effect, f"no pass had an effect {kind}"
        assert kind in effect


async def _pass(module: str, url: str, bootstrap: str, journal: Path, gap: int | str | None) -> None:
    arguments = ["-m", module, url, bootstrap, str(journal)]
    async with running([*arguments, *([] if gap is None else [str(gap)])], journal.with_suffix(".log")) as process:
        code = await process.wait(60)
        assert code in (0, -9), process.output()
