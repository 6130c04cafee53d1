"""By what an event is known, however it is delivered."""

import hashlib

import pytest

from marty_msf.core import event_identity
from marty_msf.core.user_values import keepable


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


@pytest.mark.parametrize(("one", "other"), [(b"\xff", b"\xfe"), (b"\0z", b"z"), (b"\0", b""), (b"\xff", "�".encode())])
def test_bytes_that_are_no_text_for_postgres_stay_apart_from_all_others(one: bytes, other: bytes) -> None:
    exact = [event_identity.exact(it) for it in (one, other)]
    assert exact[0] != exact[1]
    assert all(map(keepable, exact))


def test_ordinary_ids_are_kept_as_they_are() -> None:
    for name in ("e-1", "zürich", "7f0e0a0c-8a8e-4a0e-9c1f-0c2b9d8a7e6f", "x" * 512, "sha256:1", "�", "\n"):
        assert event_identity.exact(name.encode()) == name
        assert event_identity.of_event(name, name) == (name, name)
    long = hashlib.sha256(b"x" * 513).hexdigest()
    assert event_identity.of_event("s", "x" * 513).event_id == f"sha256:{long}"


def test_text_that_postgres_cannot_keep_stays_apart_from_all_other() -> None:
    ids = ["\ud800", "\ud801", "?", "\0z", "z", "�"]
    kept = [event_identity.of_event("s", it).event_id for it in ids]
    assert len(set(kept)) == len(ids)
    assert all(map(keepable, kept))
