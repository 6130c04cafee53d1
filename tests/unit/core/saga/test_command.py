"""Commands and replies as messages: what goes out, and what comes back, from whomever."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.errors import ExpressionError, PoisonEvent
from marty_msf.core.expressions import Expression
from marty_msf.core.saga.calling import KafkaCall
from marty_msf.core.saga.command import Command, Reply, ReplyOutcome, command, meaning, operation_for, read_reply
from marty_msf.core.saga.events import Failed, Rejected, Succeeded, Unusable
from marty_msf.core.saga.instance import Happened, Instance, Operation, State
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES
from tests.unit.core.saga.definitions import ORDER

SAGA = UUID("018f3c00-0000-7000-8000-000000000001")
KEY = f"{SAGA}:charge:do:1"
CORRELATION = f"shop/orders/{KEY}".encode()
ORIGIN = "the reply on Kafka topic pay.replies"


def made(body: bytes, key: str | None = None) -> Command:
    expression = Expression(key, "spec.steps[0].call.kafka.key") if key else None
    return command(
        KafkaCall("pay.commands", "pay.replies", expression),
        resource="shop/orders",
        saga_id=str(SAGA),
        action="charge",
        idempotency_key=KEY,
        body=body,
        traceparent="00-1-2-00",
    )


def test_a_command_is_a_cloud_event_that_says_where_to_and_by_what_to_reply() -> None:
    it = made(b'{"context": {}}')

    assert (it.topic, it.key, it.value) == ("pay.commands", str(SAGA).encode(), b'{"context": {}}')
    assert dict(it.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": KEY.encode(),
        "ce_type": b"charge",
        "ce_source": b"/marty/saga/shop/orders",
        "ce_subject": str(SAGA).encode(),
        "content-type": b"application/json",
        "idempotency-key": KEY.encode(),
        "correlation-id": CORRELATION,
        "reply-topic": b"pay.replies",
        "traceparent": b"00-1-2-00",
    }


@pytest.mark.parametrize(("key", "found"), [("order", b"o-7"), ("context.number", b"7"), ("'x' + order", b"xo-7")])
def test_a_key_comes_from_the_frozen_context(key: str, found: bytes) -> None:
    assert made(b'{"context": {"order": "o-7", "number": 7}}', key).key == found


@pytest.mark.parametrize("key", ["missing", "true", "[1]", "''", "1.5"])
def test_a_key_that_is_none_is_told(key: str) -> None:
    with pytest.raises(ExpressionError, match=r"spec.steps\[0\].call.kafka.key: .* let it give text or an integer"):
        made(b'{"context": {}}', key)


@pytest.mark.parametrize(
    "headers",
    [
        {"correlation-id": CORRELATION, "marty-outcome": b"Succeeded "},
        {"ce_correlationid": CORRELATION, "ce_martyoutcome": b"succeeded", "marty-outcome": b""},
    ],
)
def test_a_reply_is_recognised_by_its_headers(headers: dict[str, bytes]) -> None:
    reply = read_reply("shop/orders", headers, b'{"a": 1}')

    assert reply == Reply(SAGA, "charge:do:1", ReplyOutcome.SUCCEEDED, b'{"a": 1}')
    assert reply.step == "charge"


def test_a_reply_for_another_saga_is_none_of_ours() -> None:
    assert read_reply("shop/returns", {"correlation-id": CORRELATION, "marty-outcome": b"?"}, None) is None


@pytest.mark.parametrize(
    ("correlation", "says"),
    [
        ("", "the reply has no correlation-id header"),
        (KEY, "is none that this saga sends"),
        ("shop/orders/", "is none that this saga sends"),
        ("shop/orders/7:charge:do:1", "is none that this saga sends"),
        (f"shop/orders/{SAGA}:charge:did:1", "is none that this saga sends"),
        (f"shop/orders/{SAGA}:cha\0rge:do:1", "is none that this saga sends"),
        (f"shop/orders/{SAGA}:charge:do:0", "is none that this saga sends"),
    ],
)
def test_what_cannot_be_assigned_is_told(correlation: str, says: str) -> None:
    with pytest.raises(PoisonEvent, match=says):
        read_reply("shop/orders", {"correlation-id": correlation.encode(), "marty-outcome": b"succeeded"}, None)


def test_an_outcome_that_is_none_is_told() -> None:
    with pytest.raises(PoisonEvent, match="header is 'done': let the service set one of succeeded, rejected, failed"):
        read_reply("shop/orders", {"correlation-id": CORRELATION, "marty-outcome": b"done"}, None)


def test_an_answer_over_the_limit_is_not_kept() -> None:
    headers = {"correlation-id": CORRELATION, "marty-outcome": b"succeeded"}
    reply = read_reply("shop/orders", headers, b"x" * (ANSWER_LIMIT_BYTES + 1))

    assert reply is not None
    assert isinstance(meaning(reply, ORIGIN, 0), Unusable)


@given(st.binary(max_size=200), st.binary(max_size=50), st.binary(max_size=50))
def test_no_message_breaks_the_reader(correlation: bytes, outcome: bytes, value: bytes) -> None:
    headers = {"correlation-id": b"shop/orders/" + correlation, "marty-outcome": outcome}
    with pytest.raises(PoisonEvent):
        read_reply("shop/orders", headers, value)


@pytest.mark.parametrize(
    ("outcome", "value", "event"),
    [
        ("succeeded", b'{"a": 1}', Succeeded({"a": 1})),
        ("succeeded", b"[1]", Succeeded({})),
        ("succeeded", b"", Succeeded({})),
        ("rejected", b"no money\n", Rejected(f"rejected by {ORIGIN}: no money", 0.5)),
        ("failed", b"", Failed(f"failed, says {ORIGIN}", True, 0.5)),
    ],
)
def test_what_an_outcome_means(outcome: str, value: bytes, event: object) -> None:
    assert meaning(Reply(SAGA, "charge:do:1", ReplyOutcome(outcome), value), ORIGIN, 0.5) == event


@pytest.mark.parametrize(
    ("call", "found"), [("reserve:undo:2", True), ("reserve:undo:1", False), ("reserve:do:2", False), ("x:y", False)]
)
def test_the_operation_that_a_reply_is_for(call: str, found: bool) -> None:
    operation = Operation(0, undo=True, number=2)
    instance = Instance({}, State.COMPENSATING, happened=(Happened(0, {}),), operations=(operation,))

    assert (operation_for(ORDER, instance, call) is operation) is found
