"""What the order service takes for an order."""

from typing import Any

import pytest

from shop.order import new_order
from shop.server import Refused

VALID = {"customer_id": "customer-7", "sku": "lamp", "quantity": 2, "card_token": "tok_00ab1"}


def test_a_valid_order_gets_its_price_from_the_catalogue() -> None:
    order = new_order(VALID)

    assert (order.sku, order.quantity, order.total_cents) == ("lamp", 2, 6_980)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"customer_id": ""}, "invalid_customer_id"),
        ({"customer_id": 7}, "invalid_customer_id"),
        ({"customer_id": "a b"}, "invalid_customer_id"),
        ({"customer_id": "x" * 65}, "invalid_customer_id"),
        ({"customer_id": "x\n"}, "invalid_customer_id"),
        ({"sku": "yacht"}, "invalid_sku"),
        ({"sku": ["lamp"]}, "invalid_sku"),
        ({"quantity": 0}, "invalid_quantity"),
        ({"quantity": 101}, "invalid_quantity"),
        ({"quantity": True}, "invalid_quantity"),
        ({"quantity": 1.5}, "invalid_quantity"),
        ({"quantity": "2"}, "invalid_quantity"),
        ({"card_token": "4111111111111111"}, "invalid_card_token"),
        ({"card_token": None}, "invalid_card_token"),
        ({"price": 1}, "unknown_field"),
    ],
)
def test_a_wrong_field_is_refused_by_name(change: dict[str, Any], error: str) -> None:
    with pytest.raises(Refused) as refused:
        new_order(VALID | change)

    assert (refused.value.status, refused.value.error) == (422, error)
    assert next(iter(change)) in str(refused.value)


@pytest.mark.parametrize("field", sorted(VALID))
def test_a_missing_field_is_refused(field: str) -> None:
    with pytest.raises(Refused):
        new_order({name: value for name, value in VALID.items() if name != field})
