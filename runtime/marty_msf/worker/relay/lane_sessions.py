"""The lanes' transactional sessions: under an id that stays the lane's, fenced when the lane is gained (see ADR 9)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from marty_msf.core.errors import LeaseLost, MartyError, NotSent
from marty_msf.core.outbox.transaction import History, lane_id
from marty_msf.store import outbox_transaction
from marty_msf.store.database import translate
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.fencing import Fenced, fence
from marty_msf.worker.broker.sending import Message, Partition, Sent, Tuning
from marty_msf.worker.broker.transactional import TransactionalProducer
from marty_msf.worker.relay.adopting import Who, adopt, check_ours
from marty_msf.worker.relay.shared import Shared

logger = logging.getLogger(__name__)

#: How long Kafka leaves a transaction open whose relay is gone and has no successor: readers wait behind it. At least
#: this, and longer than the two waits in one; Kafka allows 15 minutes.
OPEN_SECONDS: Final = 60
LONGEST_OPEN_SECONDS: Final = 900


@dataclass(eq=False, slots=True)
class LaneSession:
    """One time of holding a lane."""

    lane: int
    epoch: int
    fenced: Fenced
    history: History
    #: Made for the first transaction.
    producer: TransactionalProducer | None = None
    #: A transaction of it ended in doubt: nothing may follow it.
    failed: bool = False
    #: What failed was no more than events without a note: the session can be renewed, and was not yet.
    renewable: bool = False
    #: Done once the lane is dropped.
    lost: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    #: Held during a transaction.
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class LaneSessions:
    """Transactions of the lanes that this process owns."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        connection: KafkaConnection,
        who: Who,
        shared: Shared,
        limits: MutableMapping[str, int],
        *,
        tuning: Tuning,
        acknowledge_seconds: float,
        dead_block: bool,
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._who = who
        self._shared = shared
        self._limits = limits
        self._tuning = tuning
        self._acknowledge_seconds = acknowledge_seconds
        self._open_seconds = min(max(OPEN_SECONDS, 3 * acknowledge_seconds), LONGEST_OPEN_SECONDS)
        self._dead_block = dead_block
        self._lanes: dict[int, LaneSession] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def gained(self, epochs: Mapping[int, int]) -> None:
        """Fence these lanes and make the writes that are missing; before their positions are loaded."""
        try:
            with translate():
                async with self._pool.acquire() as conn, conn.transaction():
                    # Who is late already does not disturb whoever has the lanes now.
                    await check_ours(conn, self._who, epochs)
                    system_identifier = await outbox_transaction.system_identifier(conn)
            ids = {lane: lane_id(self._shared.database, system_identifier, lane) for lane in epochs}
            fenced = await fence(self._connection, list(ids.values()), self._open_seconds)
            texts = {lane: fenced[id_].last.text for lane, id_ in ids.items()}
            with translate():
                async with self._shared.writing, self._pool.acquire() as conn, conn.transaction():
                    now = await adopt(conn, self._who, epochs, texts, dead_block=self._dead_block)
        except LeaseLost as error:
            # Nothing is sent of them: whoever wants to is told that they are lost.
            logger.info("%s", error)
            return
        for lane, epoch in epochs.items():
            self._lanes[lane] = LaneSession(lane, epoch, fenced[ids[lane]], now.history)

    def dropped(self, lanes: Collection[int]) -> None:
        """Nothing more is sent of these lanes; what is open is ended by who fences them next."""
        for lane in lanes:
            if (session := self._lanes.pop(lane, None)) is not None:
                session.lost.set_result(None)
                self._fail(session)

    async def stop(self) -> None:
        """End all sessions."""
        self.dropped(list(self._lanes))
        if self._ending:
            await asyncio.wait(self._ending)

    def of(self, lane: int) -> LaneSession:
        """Raises LeaseLost."""
        if (session := self._lanes.get(lane)) is None:
            raise LeaseLost(f"{self._who.scope}: {self._who.holder} does not own lane {lane}: nothing was sent")
        return session

    async def transact(
        self,
        session: LaneSession,
        messages: Mapping[Partition, Sequence[Message]],
        note: Callable[[], Awaitable[str]],
        sent: list[Sent],
    ) -> None:
        """See TransactionalProducer.transact; raises LeaseLost also when the lane is dropped meanwhile. After an error the
        lane is to be gained again.
        """
        async with session.busy:
            try:
                await _unless_lost(session, self._transacted(session, messages, note, sent))
            except BaseException:
                self._fail(session)
                session.renewable = False
                raise

    async def deliver(self, lane: int, messages: Mapping[Partition, Sequence[Message]]) -> None:
        """A transaction without a note. After an error the lane goes on, in a new session, as soon as Kafka gives one."""
        session = self.of(lane)
        async with session.busy:
            if session.renewable:
                await self._renew(session)
            try:
                await _unless_lost(session, self._transacted(session, messages))
            except BaseException as error:
                self._fail(session)
                if isinstance(error, MartyError) and not isinstance(error, LeaseLost | NotSent):
                    session.renewable = True
                    await self._renew(session)
                raise

    async def _transacted(
        self,
        session: LaneSession,
        messages: Mapping[Partition, Sequence[Message]],
        note: Callable[[], Awaitable[str]] | None = None,
        sent: list[Sent] | None = None,
    ) -> None:
        if session.failed:
            raise NotSent("a transaction of the lane was not committed, so that nothing goes behind it")
        producer = session.producer
        if producer is None:
            producer = session.producer = TransactionalProducer(
                self._connection,
                self._limits,
                session.fenced,
                tuning=self._tuning,
                acknowledge_seconds=self._acknowledge_seconds,
            )
            await producer.start()
        await producer.transact(messages, note, sent)

    async def _renew(self, session: LaneSession) -> None:
        """The note is still the one that the database has the write of: only the open transaction is ended."""
        if self._lanes.get(session.lane) is not session:
            return
        fenced = await fence(self._connection, [session.fenced.id], self._open_seconds)
        # Behind the fence, as in `adopt`: nothing is sent under an id that was taken from a successor.
        with translate():
            async with self._pool.acquire() as conn, conn.transaction():
                await check_ours(conn, self._who, {session.lane: session.epoch})
        session.fenced = fenced[session.fenced.id]
        session.failed = session.renewable = False

    def _fail(self, session: LaneSession) -> None:
        session.failed = True
        if session.producer is not None:
            task = asyncio.create_task(session.producer.stop())
            session.producer = None
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


async def _unless_lost(session: LaneSession, work: Coroutine[Any, Any, None]) -> None:
    """Do the work. A client that was ended under it may never tell what became of it, or tell by a cancellation that
    looks like one of the whole task: who fences the lane next finds out.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, session.lost}, return_when=asyncio.FIRST_COMPLETED)
        if session.lost.done() and (not task.done() or task.cancelled()):
            raise LeaseLost(f"lane {session.lane} was lost during a transaction")
    finally:
        task.cancel()
        await asyncio.wait({task})
        # What it ended with may not be what is raised: asked for once, so that asyncio does not call it forgotten.
        if not task.cancelled():
            task.exception()
    await task
