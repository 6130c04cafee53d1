"""Calls over Kafka while they wait: whose time is over, and what a reply is taken for."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from marty_msf.core.saga.definition import load, stored_form
from marty_msf.core.saga.events import Failed, Succeeded
from marty_msf.core.saga.instance import Call, Instance, Operation, State
from marty_msf.core.saga.outcome import Outcome
from marty_msf.store.saga_reply import Received
from marty_msf.worker.saga.memory import Live
from marty_msf.worker.saga.messaging import commands as module
from marty_msf.worker.saga.messaging.commands import Commands
from tests.unit.core.saga.definitions import spec

SAGA = UUID("018f3c00-0000-7000-8000-000000000001")
CALL = {"kafka": {"commandTopic": "pay.commands", "replyTopic": "pay.replies"}}
DEFINITION = load(stored_form(spec({"name": "charge", "call": CALL}, kafka={"bootstrapServers": "kafka:9092"})))
REPLY = Received(SAGA, "charge:do:1", 3, "succeeded", b'{"paid": 1}')


class Clock:
    now_ms = 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    it = Clock()
    monkeypatch.setattr(module, "now_ms", lambda: it.now_ms)
    return it


class Waiting:
    """One call that was begun, and what it came to."""

    def __init__(self, away_ms: Callable[[], int] = lambda: 0, not_after_ms: int | None = None) -> None:
        self.outcomes: list[Outcome | None] = []
        self.commands = Commands(away_ms)
        instance = Instance({}, State.RUNNING, operations=(Operation(0, False),))
        self.live = Live(SAGA, str(SAGA), 3, DEFINITION, 0, instance)
        call = Call(0, False, 1000, not_after_ms, True)
        self.commands.begin(self.live, call, lambda _live, _call, outcome: self.outcomes.append(outcome))

    def send(self) -> None:
        (it,) = self.commands.take(10)
        self.commands.sent(it)


def test_a_reply_has_its_time_from_the_sending_on(clock: Clock) -> None:
    it = Waiting()
    clock.now_ms += 5000
    assert it.commands.expire() is None
    it.send()
    clock.now_ms += 999
    assert (it.commands.expire(), it.outcomes) == (1, [])
    clock.now_ms += 1
    it.commands.expire()
    (outcome,) = it.outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.unknown) == ("no reply on Kafka topic pay.replies in 1 s", True)
    assert not it.commands.answer(REPLY)


def test_no_time_is_counted_while_kafka_is_away(clock: Clock) -> None:
    away_ms = 0
    it = Waiting(lambda: away_ms)
    it.send()
    for _ in range(5):
        clock.now_ms += 1000
        away_ms = clock.now_ms
        it.commands.expire()
    clock.now_ms += 999
    it.commands.expire()
    assert it.outcomes == []
    clock.now_ms += 1
    it.commands.expire()
    assert len(it.outcomes) == 1


@pytest.mark.parametrize("sent", [True, False])
def test_a_deadline_ends_the_waiting_and_only_what_was_sent_may_have_happened(clock: Clock, sent: bool) -> None:
    it = Waiting(lambda: clock.now_ms, not_after_ms=clock.now_ms + 500)
    if sent:
        it.send()
    clock.now_ms += 500
    it.commands.expire()
    (outcome,) = it.outcomes
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.unknown) == ("the deadline passed without a reply", sent)


def test_a_reply_is_used_once_and_removed_when_it_is_in_the_journal(clock: Clock) -> None:
    it = Waiting()
    it.send()
    assert it.commands.answer(REPLY)
    assert not it.commands.answer(REPLY)
    assert it.outcomes == [Succeeded({"paid": 1})]
    assert (it.commands.is_settling(REPLY), it.commands.journaled(), it.commands.busy) == (True, [], True)
    it.live.instance = Instance({"paid": 1}, State.COMPLETED)
    it.live.gone = True
    assert (it.commands.journaled(), it.commands.busy) == ([REPLY], True)
    it.commands.removed([REPLY])
    assert (it.commands.journaled(), it.commands.busy) == ([], False)


def test_a_reply_of_a_lane_that_was_lost_stays_for_its_next_owner(clock: Clock) -> None:
    it = Waiting()
    it.send()
    it.commands.answer(REPLY)
    it.live.gone = True
    assert it.commands.journaled() == []
    assert not it.commands.busy


@pytest.mark.parametrize("sent", [True, False])
def test_only_what_was_not_sent_is_given_back_with_its_attempt(clock: Clock, sent: bool) -> None:
    it = Waiting()
    if sent:
        it.send()
    assert len(list(it.commands.withdraw({3}))) == (0 if sent else 1)
    assert (it.outcomes, len(it.commands)) == ([None], 0)


@pytest.mark.parametrize(("sent", "paused", "given_back"), [(False, True, 1), (True, True, 0), (False, False, 0)])
def test_a_halted_instance_has_given_back_what_was_not_sent(
    clock: Clock, sent: bool, paused: bool, given_back: int
) -> None:
    it = Waiting()
    if sent:
        it.send()
    it.live.instance = replace(it.live.instance, paused_ms=clock.now_ms if paused else None)
    assert len(list(it.commands.halt(it.live))) == given_back
    assert (it.outcomes, len(it.commands)) == ([None] * given_back, 1 - given_back)
    assert len(it.commands.take(10)) == (0 if sent or given_back else 1)
