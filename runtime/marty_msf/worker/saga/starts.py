"""Starting instances: whoever asks at the same time shares one statement and one commit."""

import asyncio
import os
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import orjson
from asyncpg import Connection

from marty_msf.core.errors import DatabaseUnavailable, InvalidDefinition, LockUnavailable
from marty_msf.core.saga.definition import Definition
from marty_msf.core.saga.identity import CHANCE_BITS, uuid7_in_order
from marty_msf.core.saga.instance import NESTING_LIMIT, START_LIMIT_BYTES, Commands, members_problem, size_problem
from marty_msf.core.saga.journal import begin
from marty_msf.core.user_values import as_json, keepable
from marty_msf.core.value import value
from marty_msf.store import saga_start
from marty_msf.store.database import translate
from marty_msf.worker.saga.memory import Live, Memory

BATCH_LIMIT: Final = 1000
KEY_CHARACTERS: Final = 512
#: Of ids, which are no secrets: the system's own bits, a call of the kernel for each, would take longer than the rest of an id. Not the
#: generator that all share, because programs seed that one to repeat what they did, and processes would give one id twice.
_random: Final = random.Random()  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)
_INTERRUPTED: Final = "the start was interrupted: ask again with the same key"


@value
class Receipt:
    """Answer to a start: the instance is durable."""

    saga_id: str
    #: False: an instance with this business key exists already, and this is its id.
    created: bool


@value
class Prepared:
    """An instance ready to be written, and what it does once it is."""

    new: saga_start.New
    live: Live
    commands: Commands


#: A start, and who waits for it.
_Asked: TypeAlias = tuple[Prepared, asyncio.Future[Receipt]]


class Starter:
    """Sets `asked` when there is something to write. Writes new instances; those in our own lanes begin in the same commit, the others wait for their lane's owner."""

    def __init__(
        self,
        memory: Memory,
        definition: Definition,
        *,
        resource: str,
        scope: str,
        holder: str,
        began: Callable[[Live, Commands], None],
        pending: Callable[[], None],
        asked: asyncio.Event,
    ) -> None:
        self._memory = memory
        self._definition = definition
        self._resource = resource
        self._scope = scope
        self._holder = holder
        self._began = began
        self._pending = pending
        self._slot = secrets.choice(saga_start.SLOTS)
        self._asked: list[_Asked] = []
        self._new = asked
        #: Of the one who opened it; None while it is closed.
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def slot(self) -> int:
        """Counter slot of this process for what is not bound to a lane."""
        return self._slot

    async def start(self, business_key: str, context: Mapping[str, Any], traceparent: str | None = None) -> Receipt:
        """Start an instance unless one with this business key exists. Returns once it is durable.

        Its steps are called as parts of the W3C trace `traceparent`, which has to be one (`core.trace.parsed`).

        Raises InvalidDefinition for a key or context that cannot be kept, DatabaseUnavailable when it is unknown
        whether the instance was started: asking again with the same key is safe.
        """
        prepared = self.prepare(business_key, context, traceparent)
        if (loop := self._loop) is None:
            raise DatabaseUnavailable("this worker takes no new instances now: ask again")
        answer: asyncio.Future[Receipt] = loop.create_future()
        self._asked.append((prepared, answer))
        self._new.set()
        return await answer

    def prepare(self, business_key: str, context: Mapping[str, Any], traceparent: str | None = None) -> Prepared:
        """Check a new instance and compute its first transition. Raises InvalidDefinition."""
        return prepare(self._definition, business_key, context, traceparent)

    async def write(self, conn: Connection, prepared: Mapping[str, Prepared]) -> Mapping[str, saga_start.Placed]:
        """Write instances, by business key, in the caller's transaction; call `hand_over` after its commit.

        Around both, the caller holds `Memory.writing`.
        """
        return await saga_start.start(
            conn,
            self._resource,
            self._definition.revision,
            [item.new for item in prepared.values()],
            scope=self._scope,
            holder=self._holder,
            epochs=self._memory.working_lanes(),
            slot=self._slot,
        )

    def hand_over(self, prepared: Mapping[str, Prepared], placed: Mapping[str, saga_start.Placed]) -> None:
        """Begin the work of what was written and committed."""
        waiting = False
        for key, place in placed.items():
            if not place.created:
                continue
            if not place.running:
                waiting = True
                continue
            item = prepared[key]
            item.live.lane = place.lane
            if self._memory.add(item.live):
                self._began(item.live, item.commands)
        if waiting:
            self._pending()

    @property
    def waiting(self) -> bool:
        """Whether there is something to write."""
        return bool(self._asked)

    async def run_once(self, conn: Connection) -> None:
        """Write what was asked for and answer."""
        taken, self._asked = self._asked[:BATCH_LIMIT], self._asked[BATCH_LIMIT:]
        batch: dict[str, list[_Asked]] = {}
        for item in taken:
            batch.setdefault(item[0].new.business_key, []).append(item)
        try:
            try:
                await self._write_and_answer(conn, batch)
            except LockUnavailable:
                await self._one_by_one(conn, batch)
        except BaseException:
            _refuse(taken, _INTERRUPTED)
            raise

    async def _write_and_answer(self, conn: Connection, batch: Mapping[str, Sequence[_Asked]]) -> None:
        prepared = {key: items[0][0] for key, items in batch.items()}
        with self._memory.writing():
            with translate():
                placed = await self.write(conn, prepared)
            self.hand_over(prepared, placed)
        for key, items in batch.items():
            _answer(placed[key], [future for _, future in items])

    async def _one_by_one(self, conn: Connection, batch: Mapping[str, Sequence[_Asked]]) -> None:
        """Start what can be started beside keys that foreign transactions are starting; refuse these for now."""
        with translate():
            await saga_start.wait_hardly(conn)
        for key, items in batch.items():
            try:
                await self._write_and_answer(conn, {key: items})
            except LockUnavailable:
                _refuse(
                    items,
                    f"a transaction that has not ended yet starts an instance with the business key {key!r}, or locks "
                    "tables of marty: end it, and ask again with the same key",
                )
        with translate():
            await saga_start.wait_shortly(conn)

    def open(self) -> None:
        """Take starts from now on."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Take no more starts, and refuse those not yet written."""
        self._loop = None
        _refuse(self._asked, _INTERRUPTED)
        self._asked = []


def prepare(
    definition: Definition, business_key: str, context: Mapping[str, Any], traceparent: str | None = None
) -> Prepared:
    """A new instance with its first transition. Raises InvalidDefinition for a key or context that cannot be kept."""
    if not 1 <= len(business_key) <= KEY_CHARACTERS or not keepable(business_key):
        raise InvalidDefinition(
            "business_key",
            f"has {len(business_key)} characters, or a NUL or lone surrogate",
            f"give 1 to {KEY_CHARACTERS} characters",
        )
    try:
        encoded = as_json(context)
    except TypeError as error:
        raise InvalidDefinition(
            "context", f"is no JSON ({error})", f"give a JSON object nested at most {NESTING_LIMIT} levels"
        ) from None
    plain = orjson.loads(encoded)
    if problem := members_problem(plain) or size_problem(encoded, START_LIMIT_BYTES):
        raise InvalidDefinition("context", *problem.split(": ", 1))
    now_ns = time.time_ns()
    now = now_ns // 1_000_000
    id_ = saga_start.instance_id(uuid7_in_order(now_ns, _random.getrandbits(CHANCE_BITS)))
    text = str(id_)
    begun = begin(definition, plain, text, now)
    live = Live(id_, text, -1, definition, now, begun.instance, 1, begun.bodies, traceparent=traceparent)
    # An instance that ends or waits for a lock without any call takes the long way, as Pending, which knows how to.
    entry = begun.entry if begun.bodies else None
    return Prepared(saga_start.New(id_, business_key, encoded, entry, traceparent), live, begun.commands)


def _refuse(asked: Sequence[_Asked], why: str) -> None:
    for _, future in asked:
        if not future.done():
            future.set_exception(DatabaseUnavailable(why))


def _answer(placed: saga_start.Placed, futures: Sequence[asyncio.Future[Receipt]]) -> None:
    """The first who asked created it, the others find it existing."""
    created = placed.created
    for future in futures:
        if not future.done():
            future.set_result(Receipt(str(placed.id), created))
        created = False
