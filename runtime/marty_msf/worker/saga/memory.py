"""The live instances of the lanes this process owns, and which lanes those are."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from uuid import UUID

from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.instance import Instance


@dataclass(slots=True, eq=False)
class Live:
    """One live instance; `instance`, `seq` and `bodies` are what is durable."""

    id: UUID
    #: The id as the services see it.
    text: str
    lane: int
    definition: Definition
    started_ms: int
    instance: Instance
    #: Number of its newest journal entry.
    seq: int = 0
    #: By step the request body of the operation in work.
    bodies: Mapping[int, bytes] = field(default_factory=dict)
    #: Not ours any more, or ended: whatever still refers to it does nothing.
    gone: bool = False
    #: What it was when it was last seen to have made progress, and when that was; None: not looked at yet.
    progress: tuple[Instance, int] | None = None
    #: Of the W3C trace that its start belongs to; None: a trace of its own, see `core.trace.of_saga`.
    traceparent: str | None = None


class Memory:
    """Live instances by id and by lane. Not durable: it is rebuilt from the journal whenever lanes are gained."""

    def __init__(self) -> None:
        self._live: dict[str, Live] = {}
        self._by_lane: dict[int, dict[str, Live]] = {}
        self._epochs: dict[int, int] = {}
        self._draining: set[int] = set()
        self._writes: set[asyncio.Future[None]] = set()
        #: Ids that left since the last look for Pending ones began: its answer may be older than their leaving.
        self._left: set[str] = set()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def epochs(self) -> Mapping[int, int]:
        """lane -> epoch of the lanes loaded, draining ones included: their last results are still written."""
        return MappingProxyType(self._epochs)

    def working_lanes(self) -> dict[int, int]:
        """lane -> epoch of the lanes that take new work."""
        return {lane: epoch for lane, epoch in self._epochs.items() if lane not in self._draining}

    def is_working(self, lane: int) -> bool:
        """Whether the lane is ours and takes new work."""
        return lane in self._epochs and lane not in self._draining

    def all(self) -> list[Live]:
        """Every live instance, as of now."""
        return list(self._live.values())

    def by_revision(self) -> Mapping[str, int]:
        """How many instances follow each revision."""
        return Counter(live.definition.revision for live in self._live.values())

    def add(self, live: Live) -> bool:
        """Take an instance in; False when its lane is not loaded or the instance is there already."""
        if live.lane not in self._epochs or live.text in self._live:
            return False
        self._live[live.text] = live
        self._by_lane[live.lane][live.text] = live
        return True

    def get(self, text: str) -> Live | None:
        """The instance with this id, when it is in work here."""
        return self._live.get(text)

    def remove(self, live: Live) -> None:
        """The instance ended."""
        live.gone = True
        self._left.add(live.text)
        self._live.pop(live.text, None)
        self._by_lane.get(live.lane, {}).pop(live.text, None)

    def begin_look(self) -> None:
        """A look for Pending instances begins."""
        self._left.clear()

    def is_known(self, text: str) -> bool:
        """Whether an instance found by the look is in work or was in work since the look began."""
        return text in self._live or text in self._left

    def open_lane(self, lane: int, epoch: int) -> None:
        """The lane is ours, with nothing in it yet."""
        self._epochs[lane] = epoch
        self._by_lane[lane] = {}

    def start_draining(self, lanes: set[int]) -> None:
        """No new calls for these lanes."""
        self._draining |= lanes

    def close_lanes(self, lanes: set[int]) -> None:
        """Forget the lanes and their instances."""
        for lane in lanes:
            self._epochs.pop(lane, None)
            for live in self._by_lane.pop(lane, {}).values():
                live.gone = True
                self._left.add(live.text)
                del self._live[live.text]
        self._draining -= lanes

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around every write of instances: lanes are loaded only after the writes begun before have ended."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.add(ended)
        try:
            yield
        finally:
            self._writes.discard(ended)
            ended.set_result(None)

    async def settled(self) -> None:
        """Return once the writes going on now have ended. A lane lost and gained again is then read as they left it."""
        if self._writes:
            await asyncio.wait(set(self._writes))
