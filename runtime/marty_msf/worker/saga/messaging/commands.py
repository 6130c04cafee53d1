"""Calls over Kafka: commands that wait to be sent, and those that wait for their replies.

Waiting costs no task and no place of `workers`: thousands may wait. A call is open from `begin` until its outcome was
told, or until its lane is given up; then whoever owns the lane next takes it up from the journal.
"""

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from marty_msf.core.saga.calling import KafkaCall
from marty_msf.core.saga.command import Reply, ReplyOutcome, meaning
from marty_msf.core.saga.events import Failed
from marty_msf.core.saga.instance import LIVE, Call, Operation, stands_still
from marty_msf.core.saga.machine import idempotency_key
from marty_msf.core.saga.outcome import Outcome
from marty_msf.store.saga_reply import Received
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.memory import Live

#: Hears of a call's outcome once; None: the call was given up without one.
Done: TypeAlias = Callable[[Live, Call, Outcome | None], None]


@dataclass(slots=True, eq=False)
class Open:
    """A call without an outcome."""

    live: Live
    call: Call
    form: KafkaCall
    #: Its idempotency key.
    key: str
    done: Done
    #: When its command went out, whether Kafka has acknowledged it or not; None before.
    sent_ms: int | None = None


class Commands:
    """The open calls of this process. All of it is called from the event loop's thread and never waits."""

    def __init__(self, away_ms: Callable[[], int]) -> None:
        """`away_ms` says when Kafka was last known to be away: replies have their time from then on."""
        self._away_ms = away_ms
        self._open: dict[str, Open] = {}
        #: Those of them whose commands have not left yet, by instance.
        self._unsent: dict[Live, list[Open]] = {}
        self._queue: deque[Open] = deque()
        self._ends: list[tuple[int, int, Open]] = []
        self._ties = itertools.count()
        #: Answered by this reply, and maybe not in the journal yet: with the number of calls then.
        self._answered: dict[str, tuple[Open, Received, int]] = {}
        #: Set when there is something to send.
        self.queued = asyncio.Event()
        #: Set when a time-out may be the next one to end.
        self.timed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def busy(self) -> bool:
        """Whether a reply may come that is of use here, or one is to be removed."""
        return bool(self._open or self._answered)

    def begin(self, live: Live, call: Call, done: Done) -> None:
        """Send the step's command as soon as can be, unless its reply is there. Its intent is durable."""
        form = live.definition.steps[call.step].call
        assert isinstance(form, KafkaCall)
        it = Open(live, call, form, idempotency_key(live.definition, live.text, call), done)
        if (former := self._open.get(it.key)) is not None:
            # Of a time before the lane was lost and came back.
            self._give_up(former)
        self._open[it.key] = it
        self._unsent.setdefault(live, []).append(it)
        self._queue.append(it)
        self.queued.set()
        if call.not_after_ms is not None:
            self._end(call.not_after_ms, it)

    def withdraw(self, lanes: Collection[int]) -> Iterator[tuple[Live, Call]]:
        """Give up the calls of these lanes; yields those whose commands were not sent. Replies of the others are kept."""
        for it in [it for it in self._open.values() if it.live.lane in lanes]:
            self._give_up(it)
            if it.sent_ms is None and not it.live.gone:
                yield it.live, it.call

    def halt(self, halted: Live) -> Iterator[Call]:
        """Give up the calls of this instance that are not to be made now and were not sent; yields them."""
        for it in tuple(self._unsent.get(halted, ())):
            if stands_still(halted.instance, undo=it.call.undo):
                self._give_up(it)
                yield it.call

    def take(self, limit: int) -> list[Open]:
        """The next calls whose commands are to be sent."""
        taken: list[Open] = []
        while self._queue and len(taken) < limit:
            it = self._queue.popleft()
            if self.is_open(it):
                taken.append(it)
        if not self._queue:
            self.queued.clear()
        return taken

    def put_back(self, calls: Sequence[Open]) -> None:
        """They could not be sent; their turn comes again."""
        self._queue.extendleft(reversed(calls))
        if self._queue:
            self.queued.set()

    def sent(self, it: Open) -> None:
        """The command is on its way: its reply has its time from now on."""
        it.sent_ms = now_ms()
        self._leaves(it)
        self._end(it.sent_ms + it.call.timeout_ms, it)

    def is_open(self, it: Open) -> bool:
        """Whether the call still waits for its outcome; one whose instance is gone is closed here."""
        if self._open.get(it.key) is not it:
            return False
        if it.live.gone:
            self._give_up(it)
            return False
        return True

    def answer(self, received: Received) -> bool:
        """Hand a reply to the call that waits for it; False when none does."""
        it = self._open.get(f"{received.id}:{received.call}")
        if it is None or not self.is_open(it):
            return False
        operation = it.live.instance.operation(it.call.step)
        if operation is not None:
            self._answered[it.key] = (it, received, operation.calls)
        reply = Reply(received.id, received.call, ReplyOutcome(received.outcome), received.value)
        origin = f"the reply on Kafka topic {it.form.reply_topic}"
        self.settle(it, meaning(reply, origin, random.random()))  # noqa: S311  # spreads waits, guards nothing
        return True

    def settle(self, it: Open, outcome: Outcome) -> None:
        """The call has this outcome."""
        self._close(it)
        it.done(it.live, it.call, outcome)

    def is_settling(self, received: Received) -> bool:
        """Whether a call was answered with this reply, and that may not be in the journal yet."""
        found = self._answered.get(f"{received.id}:{received.call}")
        return found is not None and found[1].outcome == received.outcome

    def journaled(self) -> list[Received]:
        """Replies that are in the journal now. Call `removed` once they are no longer in their table.

        Until then they must not be handed to the next call of their step, which has the same key.
        """
        done: list[Received] = []
        for key, (it, received, calls) in list(self._answered.items()):
            instance = it.live.instance
            operation = instance.operation(it.call.step)
            if instance.state in LIVE and it.live.gone:
                # Another's now, who may not have the journal with the answer: what the reply is worth is decided there.
                del self._answered[key]
            elif instance.state not in LIVE or not _same_call(operation, it.call, calls):
                done.append(received)
        return done

    def removed(self, replies: Collection[Received]) -> None:
        """These are not in their table any more, or in another's lanes."""
        for received in replies:
            key = f"{received.id}:{received.call}"
            if (found := self._answered.get(key)) is not None and found[1] is received:
                del self._answered[key]

    def expire(self) -> int | None:
        """Settle the calls whose time is over; milliseconds until the next time-out, None when there is none."""
        now = now_ms()
        while self._ends:
            end_ms, _, it = self._ends[0]
            if end_ms > now and self._open.get(it.key) is it:
                return end_ms - now
            heapq.heappop(self._ends)
            if self.is_open(it):
                self._expire(it, now)
        return None

    def _expire(self, it: Open, now: int) -> None:
        not_after_ms = it.call.not_after_ms
        if not_after_ms is not None and not_after_ms <= now:
            self.settle(it, _failed("the deadline passed without a reply", unknown=it.sent_ms is not None))
            return
        if it.sent_ms is None:
            return
        end_ms = max(it.sent_ms, self._away_ms()) + it.call.timeout_ms
        if end_ms > now:
            self._end(end_ms, it)
            return
        seconds = it.call.timeout_ms / 1000
        self.settle(it, _failed(f"no reply on Kafka topic {it.form.reply_topic} in {seconds:.3g} s", unknown=True))

    def _end(self, end_ms: int, it: Open) -> None:
        heapq.heappush(self._ends, (end_ms, next(self._ties), it))
        if self._ends[0][2] is it:
            self.timed.set()

    def _give_up(self, it: Open) -> None:
        """It ends without an outcome."""
        self._close(it)
        it.done(it.live, it.call, None)

    def _close(self, it: Open) -> None:
        if self._open.get(it.key) is it:
            del self._open[it.key]
            self._leaves(it)

    def _leaves(self, it: Open) -> None:
        """It is not among the unsent ones any more."""
        if it in (unsent := self._unsent.get(it.live, [])):
            unsent.remove(it)
            if not unsent:
                del self._unsent[it.live]


def _same_call(operation: Operation | None, call: Call, calls: int) -> bool:
    """Whether an operation is still in flight with the call that was the `calls`th."""
    if operation is None or operation.until_ms is not None:
        return False
    return operation.undo is call.undo and operation.calls == calls


def _failed(error: str, *, unknown: bool) -> Failed:
    return Failed(error, unknown, random.random())  # noqa: S311  # spreads waits, guards nothing
