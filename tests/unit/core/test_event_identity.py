"""By what an event is known, however it is delivered."""

from marty_msf.core import event_identity


def test_the_headers_say_who_an_event_is_and_without_an_id_its_place_does() -> None:
    assert event_identity.of_headers({"ce_id": "e-1", "ce_source": "/shop"}) == ("/shop", "e-1")
    assert event_identity.of_headers({"ce_source": "/shop"}) is None
    assert event_identity.of_place("orders", 3, 7, 1700) == ("kafka:orders/3", "7@1700")


def test_a_long_identity_is_replaced_by_its_hash_and_stays_apart_from_others() -> None:
    first, second = (event_identity.of_event("s", "x" * 600 + end) for end in "ab")
    assert first != second
    assert len(first.event_id) < 100


def test_what_postgres_cannot_keep_is_taken_out() -> None:
    assert event_identity.text(b"a\x00\xff") == "a�"
