"""The work queue: what its schedule promises, for any order of calls, and that the asyncio shell keeps it."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marty_operator.queue import FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, Schedule, WorkQueue, backoff_seconds
from marty_operator.resource import Key

KEYS = [Key("Saga", "shop", f"s{index}") for index in range(4)]
A, B = KEYS[:2]


class ScheduleMachine(RuleBasedStateMachine):
    """Any order of adds, takes, ends and waits; the model knows which keys somebody still waits for."""

    @initialize()
    def start(self) -> None:
        self.schedule = Schedule()
        self.now = 0.0
        self.wanted: set[Key] = set()
        self.running: set[Key] = set()

    @rule(key=st.sampled_from(KEYS), delay=st.floats(0, 100))
    def add(self, key: Key, delay: float) -> None:
        self.schedule.add(key, self.now + delay)
        self.wanted.add(key)

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        key = self.schedule.take(self.now)
        if key is not None:
            assert key not in self.running, "a key is never handed out twice at once"
            assert key in self.wanted
            self.running.add(key)
            self.wanted.discard(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), after=st.none() | st.floats(0, 10))
    def succeed(self, data: st.DataObject, after: float | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.schedule.succeed(key, None if after is None else self.now + after)
        self.running.discard(key)
        if after is not None:
            self.wanted.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), spread=st.floats(0, 0.99))
    def fail(self, data: st.DataObject, spread: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.schedule.fail(key, self.now, spread)
        self.running.discard(key)
        self.wanted.add(key)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert set(self.schedule.due) == self.wanted
        assert set(self.schedule.running) == self.running

    @invariant()
    def whatever_waits_comes_up(self) -> None:
        due = self.schedule.next_due()
        assert (due is None) == (not self.wanted - self.running)


TestSchedule = ScheduleMachine.TestCase
TestSchedule.settings = settings(max_examples=40, stateful_step_count=30)


@given(failures=st.integers(1, 10_000), spread=st.floats(0, 1, exclude_max=True))
def test_backoff_grows_to_its_limit_and_never_vanishes(failures: int, spread: float) -> None:
    wait = backoff_seconds(failures, spread)
    assert FIRST_BACKOFF_SECONDS / 2 <= wait <= MAX_BACKOFF_SECONDS
    assert backoff_seconds(failures + 1, spread) >= wait


def test_a_success_ends_the_backoff() -> None:
    schedule = Schedule()
    for _ in range(5):
        schedule.add(A, 0)
        assert schedule.take(0) == A
        last = schedule.fail(A, 0, 0)
        assert schedule.take(last) == A
        schedule.succeed(A, None)
        assert last == FIRST_BACKOFF_SECONDS


def test_an_add_brings_a_key_in_backoff_back_at_once() -> None:
    schedule = Schedule()
    schedule.add(A, 0)
    schedule.take(0)
    schedule.fail(A, 0, 0)
    schedule.add(A, 0)
    assert schedule.take(0) == A


def test_the_longest_waiting_key_comes_first() -> None:
    schedule = Schedule()
    schedule.add(B, 1)
    schedule.add(A, 2)
    assert [schedule.take(3), schedule.take(3), schedule.take(3)] == [B, A, None]


def test_a_stuck_pass_shows() -> None:
    schedule = Schedule()
    schedule.add(A, 0)
    schedule.take(0)
    assert schedule.oldest_wait(30) == 30


async def test_a_failing_key_is_tried_again_and_harms_no_other() -> None:
    queue, stop, passes = WorkQueue(2, spread=lambda: 0.99), asyncio.Event(), Counter[Key]()

    async def reconcile(key: Key) -> float | None:
        passes[key] += 1
        if key == A and passes[A] < 3:
            raise RuntimeError("broken")
        if passes[A] >= 3 and passes[B] >= 5:
            stop.set()
        return 0.01 if key == B else None

    queue.add(A)
    queue.add(B)
    async with asyncio.timeout(20):
        await queue.run(stop, reconcile)
    assert passes[A] == 3
    assert passes[B] >= 5


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_passes_run_at_once_than_allowed(concurrency: int) -> None:
    queue, stop = WorkQueue(concurrency), asyncio.Event()
    running = most = ended = 0

    async def reconcile(_: Key) -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        ended += 1
        if ended == len(KEYS):
            stop.set()

    for key in KEYS:
        queue.add(key)
    async with asyncio.timeout(20):
        await queue.run(stop, reconcile)
    assert most == concurrency


async def test_an_add_while_the_key_runs_is_not_lost() -> None:
    queue, stop, passes = WorkQueue(4), asyncio.Event(), 0

    async def reconcile(key: Key) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            queue.add(key)
        else:
            stop.set()

    queue.add(A)
    async with asyncio.timeout(20):
        await queue.run(stop, reconcile)
    assert passes == 2


async def test_stopping_ends_an_idle_queue() -> None:
    queue, stop = WorkQueue(1), asyncio.Event()

    async def reconcile(_: Key) -> None:
        raise AssertionError("nothing is due")

    queue.add(A, after_seconds=3600)
    asyncio.get_running_loop().call_later(0.01, stop.set)
    async with asyncio.timeout(20):
        await queue.run(stop, reconcile)
