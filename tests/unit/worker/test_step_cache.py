"""What is kept of a step's results, for how long, and under which key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.errors import ExpressionError, InvalidDefinition
from marty_msf.core.expressions import Expression
from marty_msf.core.saga.caching import ENTRY_LIMIT_BYTES, Cache, decoded, encoded, key_of
from marty_msf.patterns.saga import StepContext, cached_saga_step
from marty_msf.worker.saga.calling.handlers import Handlers
from marty_msf.worker.saga.calling.step_cache import LocalCache

LIMIT = 2000
BY_CUSTOMER = Cache(300, Expression("context.customer_id", "key"), "check")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_entry_is_used_until_its_time_is_over() -> None:
    clock = Clock()
    cache = LocalCache(LIMIT, clock)
    cache.put("a", b"1", 300)
    clock.now = 299.9
    assert cache.get("a") == b"1"
    clock.now = 300
    assert cache.get("a") is None
    assert cache.size_bytes == 0


def test_the_least_recently_used_entries_go_first() -> None:
    cache = LocalCache(LIMIT, Clock())
    for name in "abcde":
        cache.put(name, b"x" * 150, 300)
    cache.get("a")
    cache.put("f", b"x" * 150, 300)
    assert [cache.get(name) is not None for name in "abcdef"] == [True, False, True, True, True, True]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.binary(max_size=3000), st.booleans())))
def test_it_never_holds_more_bytes_than_allowed(steps: list[tuple[str, bytes, bool]]) -> None:
    clock = Clock()
    cache = LocalCache(LIMIT, clock)
    for key, value, later in steps:
        clock.now += 200 * later
        cache.put(key, value, 300)
        cache.get("a")
        assert 0 <= cache.size_bytes <= LIMIT


def test_a_key_depends_on_what_its_expression_says_and_on_the_steps_data() -> None:
    one = key_of(BY_CUSTOMER, "shop/orders", {"customer_id": 7, "order_id": 1}, {})
    assert one == key_of(BY_CUSTOMER, "shop/orders", {"customer_id": 7, "order_id": 2}, {})
    others = [
        key_of(BY_CUSTOMER, "shop/orders", {"customer_id": 8}, {}),
        key_of(BY_CUSTOMER, "shop/orders", {"customer_id": "7"}, {}),
        key_of(BY_CUSTOMER, "shop/orders", {"customer_id": 7}, {"strict": True}),
        key_of(BY_CUSTOMER, "shop/others", {"customer_id": 7}, {}),
        key_of(Cache(300, BY_CUSTOMER.key, "check elsewhere"), "shop/orders", {"customer_id": 7}, {}),
    ]
    assert one is not None
    assert len({one, *others}) == 6
    assert "7" not in one.split(":")[-1] or len(one.split(":")[-1]) == 32, "a hash, no part of the context"


def test_without_an_expression_all_of_the_context_counts() -> None:
    whole = Cache(300, None, "check")
    assert key_of(whole, "r", {"a": 1, "b": 2}, {}) == key_of(whole, "r", {"b": 2, "a": 1}, {})
    assert key_of(whole, "r", {"a": 1}, {}) != key_of(whole, "r", {"a": 2}, {})


def test_a_key_that_is_missing_or_fails_is_none() -> None:
    assert key_of(BY_CUSTOMER, "r", {"order_id": 1}, {}) is None
    with pytest.raises(ExpressionError, match="failed"):
        key_of(Cache(300, Expression("context.a + 1", "key"), "x"), "r", {"a": "text"}, {})
    with pytest.raises(ExpressionError, match="no JSON"):
        key_of(Cache(300, Expression("b'raw'", "key"), "x"), "r", {}, {})


def test_only_results_that_are_objects_and_not_too_large_are_kept() -> None:
    assert decoded(encoded({"credit": 7}) or b"") == {"credit": 7}
    assert encoded({"picture": "x" * ENTRY_LIMIT_BYTES}) is None
    assert [decoded(kept) for kept in (b"[1]", b"{", b"")] == [None, None, None]


@cached_saga_step(ttl=300)
async def check(context: StepContext) -> None: ...


async def undo(context: StepContext) -> None: ...


def test_what_is_undone_is_never_cached() -> None:
    first = Handlers()
    first.register_step_handler("check", check)
    with pytest.raises(InvalidDefinition, match="has a compensation"):
        first.register_compensation_handler("check", undo)
    second = Handlers()
    second.register_compensation_handler("check", undo)
    with pytest.raises(InvalidDefinition, match="has a compensation"):
        second.register_step_handler("check", check)


@pytest.mark.parametrize("ttl", [0, -1, 1.5, True, "300"])
def test_a_time_that_is_none_is_refused(ttl: object) -> None:
    with pytest.raises(InvalidDefinition, match="cached_saga_step"):
        cached_saga_step(ttl=ttl)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [5, b"context.id", True])
def test_a_key_that_is_no_text_is_refused(key: object) -> None:
    with pytest.raises(InvalidDefinition, match=r"^cached_saga_step\(key=…\): .* is no text: give CEL"):
        cached_saga_step(ttl=5, key=key)  # type: ignore[arg-type]


def test_parentheses_are_asked_for() -> None:
    with pytest.raises(InvalidDefinition, match="without parentheses"):
        cached_saga_step(check)  # type: ignore[arg-type]
