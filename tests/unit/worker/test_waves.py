"""Which wave an event comes into."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

from marty_msf.core.saga import instance as states
from marty_msf.worker.saga import waves
from marty_msf.worker.saga.waves import Waves


class Noting(Waves):
    """Writes nothing, and notes what would be on the sheet; `meanwhile` happens while a wave is being written."""

    def __init__(self) -> None:
        names = ("call", "acquire", "ended", "broken", "refused", "halted", "verb_settled")
        given: dict[str, Any] = {name: MagicMock() for name in names}
        events: dict[str, Any] = {"happened": asyncio.Event(), "progress": asyncio.Event()}
        super().__init__(MagicMock(), resource="r", scope="s", holder="h", **given, **events)
        self.drafted: list[tuple[str, str]] = []
        self.meanwhile: list[tuple[Any, Any]] = []

    def _draft(self, live: Any, event: Any) -> None:
        self.drafted.append((live.text, event.name))
        self._sheet.lives.append(live)
        self._sheet.drafts[live] = SimpleNamespace(  # type: ignore[assignment]
            instance=states.Instance({}), bodies=None, seq=0, commands=(), verbs=()
        )

    async def _write(self, conn: Any, *_: object, **__: object) -> frozenset[int]:
        await conn.durable.wait()
        for live, event in self.meanwhile:
            self.tell(live, event)
        self.meanwhile = []
        return frozenset()


def connection(*, durable: bool) -> Any:
    """Its commit returns once `durable` is set."""
    event = asyncio.Event()
    if durable:
        event.set()
    return SimpleNamespace(durable=event)


@dataclass(eq=False)
class Instance:
    """What the waves know of one in memory."""

    text: str
    gone: bool = False
    lane: int = 0


async def test_an_event_that_found_the_sheet_full_comes_before_a_later_one_of_its_instance(monkeypatch: Any) -> None:
    monkeypatch.setattr(waves, "WAVE_LIMIT", 1)
    it = Noting()
    first: Any = Instance("first")
    second: Any = Instance("second")
    answered, cancelled, due = cast(Any, (SimpleNamespace(name=name) for name in ("answered", "cancelled", "due")))
    it.tell(first, answered)
    it.tell(second, answered)  # no place
    monkeypatch.setattr(waves, "WAVE_LIMIT", 10)
    it.meanwhile = [(second, cancelled), (first, due)]

    await it.run_once(connection(durable=True))

    assert it.drafted == [("first", "answered"), ("second", "answered"), ("second", "cancelled"), ("first", "due")]


async def test_of_two_waves_at_once_no_instance_is_in_both_and_its_events_keep_their_order() -> None:
    it = Noting()
    first: Any = Instance("first")
    second: Any = Instance("second")
    one, two, three = cast(Any, (SimpleNamespace(name=name) for name in ("one", "two", "three")))
    conn, beside = connection(durable=False), connection(durable=False)
    it.tell(first, one)
    running = asyncio.create_task(it.run_once(conn))
    await asyncio.sleep(0)
    it.tell(first, two)
    it.tell(second, one)
    running_beside = asyncio.create_task(it.run_once(beside, beside=True))
    await asyncio.sleep(0)
    it.tell(second, two)
    it.tell(first, three)
    assert it.drafted == [("first", "one"), ("second", "one")]
    # Whoever writes would else write nothing, again and again.
    assert not it.waiting

    beside.durable.set()
    await running_beside
    assert it.drafted[2:] == [("second", "two")]
    conn.durable.set()
    await running
    assert it.drafted[3:] == [("first", "two"), ("first", "three")]
    assert not it.busy({1})
