"""What decorators leave on a function, for whoever registers it."""

from collections.abc import Callable
from typing import Any, TypeVar

from marty_msf.core.errors import InvalidDefinition

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def put(function: FunctionT, attribute: str, mark: object, decorator: str) -> FunctionT:
    """The function, marked. Raises InvalidDefinition for what is none, and for what takes no attributes."""
    if not callable(function):
        raise InvalidDefinition(decorator, f"{function!r} is no function", "write it above a function")
    try:
        setattr(function, attribute, mark)
    except (AttributeError, TypeError) as error:
        remedy = "write it above the function itself, or wrap this one in a function"
        raise InvalidDefinition(decorator, f"{function!r} cannot be marked", remedy) from error
    return function
