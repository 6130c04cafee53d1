"""How a service reads a step call."""

import json
from typing import Any

import pytest

from shop.saga import BadCall, Call, Direction, parse

KEY = "saga-1:reserve_inventory:undo:2"
BODY: dict[str, Any] = {"saga_id": "saga-1", "step": "reserve_inventory", "context": {"order_id": "o1", "quantity": 3}}


def body(**change: Any) -> bytes:
    return json.dumps(BODY | change).encode()


def test_key_and_body_make_a_call() -> None:
    call = parse(KEY, body(data={"warehouse": "north"}, result={"reserved_pieces": 3}))

    assert call == Call(
        key=KEY,
        saga_id="saga-1",
        step="reserve_inventory",
        direction=Direction.UNDO,
        round=2,
        context={"order_id": "o1", "quantity": 3},
        data={"warehouse": "north"},
        result={"reserved_pieces": 3},
    )


def test_a_saga_id_may_contain_colons() -> None:
    assert parse("a:b:pay:do:0", json.dumps({"saga_id": "a:b", "step": "pay", "context": {}}).encode()).saga_id == "a:b"


@pytest.mark.parametrize(
    ("key", "content"),
    [
        (None, body()),
        ("", body()),
        ("x" * 301, body()),
        ("saga-1:reserve_inventory:2", body()),
        ("saga-1:reserve_inventory:redo:2", body()),
        ("saga-1:reserve_inventory:do:first", body()),
        (KEY, b"no json"),
        (KEY, b"[]"),
        (KEY, body(context=[])),
        (KEY, body(saga_id="saga-2")),
        (KEY, body(step="charge_payment")),
    ],
)
def test_a_call_that_breaks_the_contract_is_refused(key: str | None, content: bytes) -> None:
    with pytest.raises(BadCall):
        parse(key, content)


@pytest.mark.parametrize(("name", "value"), [("order_id", None), ("order_id", ""), ("order_id", 7)])
def test_a_text_that_is_no_text_is_refused(name: str, value: object) -> None:
    call = parse(KEY, body(context={name: value}))

    with pytest.raises(BadCall, match=f"context.{name}"):
        call.text(name)


@pytest.mark.parametrize("value", [None, "3", True, 1.5])
def test_a_number_that_is_no_number_is_refused(value: object) -> None:
    call = parse(KEY, body(context={"quantity": value}))

    with pytest.raises(BadCall, match=r"context\.quantity"):
        call.number("quantity")
