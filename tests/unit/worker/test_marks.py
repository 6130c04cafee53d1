"""Decorators of handlers: what they can stand above, and what they are told there."""

from collections.abc import Callable
from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.patterns.saga import cached_saga_step, circuit_breaker, saga_compensation, saga_step

DECORATORS: list[tuple[str, Callable[[Any], Any]]] = [
    ("@saga_step", saga_step("charge")),
    ("@saga_compensation", saga_compensation("charge")),
    ("@circuit_breaker", circuit_breaker()),
    ("@cached_saga_step", cached_saga_step(5)),
]


class Payments:
    def charge(self, context: object) -> None: ...


@pytest.mark.parametrize(("name", "decorator"), DECORATORS)
@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("x", "'x' is no function"),
        (None, "None is no function"),
        (Payments().charge, "cannot be marked"),
        (len, "cannot"),
    ],
)
def test_what_is_no_function_of_ones_own_is_refused(
    name: str, decorator: Callable[[Any], Any], function: object, problem: str
) -> None:
    with pytest.raises(InvalidDefinition, match=problem) as raised:
        decorator(function)
    assert str(raised.value).startswith(name)


@pytest.mark.parametrize("name", ["", "no space", "1st", "ß", 5, None])
@pytest.mark.parametrize("decorator", [saga_step, saga_compensation])
def test_a_name_that_no_step_and_no_handler_can_have_is_refused(decorator: Callable[[Any], Any], name: object) -> None:
    with pytest.raises(InvalidDefinition, match="names no step"):
        decorator(name)


def test_the_name_of_the_function_is_the_name_of_the_step_without_parentheses() -> None:
    with pytest.raises(InvalidDefinition, match="'<lambda>' names no step"):
        saga_step(lambda _: None)
