"""What can be kept as a context."""

from typing import Any

import pytest

from marty_msf.core.saga.instance import CONTEXT_LIMIT_BYTES, NESTING_LIMIT, context_problem


def nested(levels: int, *, lists: bool) -> Any:
    """An object with so many levels of lists or objects, itself included."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value] if lists else {"a": value}
    return {"a": value}


@pytest.mark.parametrize("lists", [True, False])
def test_nesting_is_bounded_whatever_json_could_write(lists: bool) -> None:
    assert context_problem(nested(NESTING_LIMIT, lists=lists)) is None
    for levels in (NESTING_LIMIT + 1, 253, 254, 1023, 5000):
        problem = context_problem(nested(levels, lists=lists))
        assert problem is not None
        assert "nested over 64 levels" in problem


def test_width_is_no_depth_and_size_is_bounded() -> None:
    assert context_problem({"a": [[{}, []], [1, 2]] * 1000, "b": {"c": "d"}}) is None
    problem = context_problem({"a": "x" * CONTEXT_LIMIT_BYTES})
    assert problem is not None
    assert "bytes" in problem


def test_no_member_may_have_the_whole_contexts_name() -> None:
    problem = context_problem({"context": 1})
    assert problem is not None
    assert "reserved" in problem
