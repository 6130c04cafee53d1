"""What of a lane does not go its lane's way: aggregates that are held, and events that went ahead. In memory only.

Each has a stored half, as the database has it, and a pending one: decided, and written with a batch that is on its way.
Forgetting what is on its way forgets the pending half.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

#: Events held of one lane, beyond which the lane itself waits: they are copied, and a topic may be away for long.
HELD_AT_MOST: Final = 10_000


class HeldKeys:
    """The aggregates whose events are held: later ones of theirs are held too."""

    def __init__(self) -> None:
        self._stored: dict[int, set[str]] = {}
        self._pending: defaultdict[int, Counter[str]] = defaultdict(Counter)
        #: lane -> rows held that are not dead.
        self._held: Counter[int] = Counter()
        self._dead: Counter[int] = Counter()
        #: (lane, key) -> how often a row of it was stored: tells a release that it came too late.
        self._times: Counter[tuple[int, str]] = Counter()
        #: (lane, key) of what catches up -> until when its lane waits for it.
        self._catching_up: dict[tuple[int, str], float] = {}

    def __bool__(self) -> bool:
        return bool(self._stored or self._pending)

    @property
    def rows(self) -> int:
        """Rows that are held, dead ones included, as far as is known."""
        return self._held.total() + self._dead.total()

    @property
    def dead(self) -> int:
        """Dead letters, as far as is known."""
        return self._dead.total()

    def load(
        self, lanes: Iterable[int], keys: Iterable[tuple[int, str]], held: Mapping[int, int], dead: Mapping[int, int]
    ) -> None:
        """What the database has for lanes that were gained."""
        for lane in lanes:
            self.drop(lane)
        for lane, key in keys:
            self._stored.setdefault(lane, set()).add(key)
        self._held.update(held)
        self._dead.update(dead)

    def recount(self, held: Mapping[int, int], dead: Mapping[int, int]) -> None:
        """What the database counts for all of our lanes: people's verbs move events too."""
        self._held, self._dead = Counter(held), Counter(dead)

    def drop(self, lane: int) -> None:
        """The lane is no longer ours."""
        for known in (self._stored, self._pending, self._held, self._dead):
            known.pop(lane, None)

    def forget(self) -> None:
        """What is on its way is forgotten."""
        self._pending.clear()

    def holds(self, lane: int, key: str | None) -> bool:
        """Whether an event of this aggregate must be held."""
        return key is not None and (key in self._stored.get(lane, ()) or key in self._pending.get(lane, ()))

    def lanes(self) -> set[int]:
        """The lanes of which an aggregate is held."""
        return {*self._stored, *self._pending}

    def full(self) -> AbstractSet[int]:
        """The lanes of which so much is held that the rest waits in the outbox."""
        return {lane for lane, events in self._held.items() if events >= HELD_AT_MOST}

    def catch_up(self, keys: Iterable[tuple[int, str]], until: float) -> None:
        """All that was held of these aggregates is sent: what was held behind it meanwhile is soon, and then they are free.

        Their lanes wait `until` then at most, a time of time.monotonic.
        """
        for lane, key in keys:
            if self.holds(lane, key):
                self._catching_up.setdefault((lane, key), until)

    def stand_still(self, keys: Iterable[tuple[int, str]]) -> None:
        """Something of these aggregates cannot be sent now: nobody waits for them."""
        for key in keys:
            self._catching_up.pop(key, None)

    def catching_up(self, now: float) -> AbstractSet[int]:
        """The lanes of which nothing is to be read until their aggregates are free."""
        if not self._catching_up:
            return frozenset()
        known = self._catching_up
        self._catching_up = {key: until for key, until in known.items() if until > now and self.holds(*key)}
        return {lane for lane, _ in self._catching_up}

    def decided(self, lane: int, key: str | None) -> None:
        """An event of this aggregate will be stored as held."""
        if key is not None:
            self._pending[lane][key] += 1

    def stored(self, keys: Iterable[tuple[int, str | None]], held: Mapping[int, int]) -> None:
        """The database has them now; `held` is lane -> rows added."""
        for lane, key in keys:
            if key is None:
                continue
            self._stored.setdefault(lane, set()).add(key)
            self._times[lane, key] += 1
            if pending := self._pending.get(lane):
                pending[key] -= 1
                if pending[key] <= 0:
                    del pending[key]
                if not pending:
                    del self._pending[lane]
        self._held.update(held)

    def times(self, keys: Iterable[tuple[int, str]]) -> Mapping[tuple[int, str], int]:
        """To be given to `released`: taken before the transaction that releases."""
        return {key: self._times[key] for key in keys}

    def released(
        self,
        free: Collection[tuple[int, str]],
        before: Mapping[tuple[int, str], int],
        held: Mapping[int, int],
        dead: Mapping[int, int],
    ) -> None:
        """The database holds nothing in order of these aggregates any more, unless something was stored meanwhile."""
        for lane, key in free:
            if self._times[lane, key] == before.get((lane, key), 0):
                self._stored.get(lane, set()).discard(key)
                del self._times[lane, key]
            if not self._stored.get(lane, True):
                del self._stored[lane]
        self._held.update(held)
        self._dead.update(dead)


class AheadIds:
    """The events that were published before their lane's position comes by."""

    def __init__(self) -> None:
        #: id -> lane.
        self._stored: dict[int, int] = {}
        self._pending: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._stored) + len(self._pending)

    def ids(self) -> set[int]:
        """All of them."""
        return {*self._stored, *self._pending}

    def load(self, lanes: Iterable[int], ids: Mapping[int, int]) -> None:
        """What the database has (id -> lane) for lanes that were gained."""
        self.drop(lanes)
        self._stored.update(ids)

    def drop(self, lanes: Iterable[int]) -> None:
        """The lanes are no longer ours."""
        lost = set(lanes)
        for known in (self._stored, self._pending):
            for id_ in [id_ for id_, lane in known.items() if lane in lost]:
                del known[id_]

    def forget(self) -> None:
        """What is on its way is forgotten."""
        self._pending.clear()

    def among(self, ids: Iterable[int]) -> frozenset[int]:
        """Which of these events the position is to pass over."""
        return frozenset([id_ for id_ in ids if id_ in self._stored or id_ in self._pending]) if self else frozenset()

    def sent(self, lane: int, id_: int) -> None:
        """The event is on its way."""
        self._pending[id_] = lane

    def stored(self, ids: Mapping[int, int]) -> None:
        """The database has them (id -> lane) now."""
        self._stored.update(ids)
        for id_ in ids:
            self._pending.pop(id_, None)

    def passed(self, ids: Iterable[int]) -> None:
        """The position is behind them."""
        for id_ in ids:
            self._stored.pop(id_, None)
