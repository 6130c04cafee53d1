"""`@cached_saga_step`: a handler whose results are used again."""

from collections.abc import Callable
from typing import Final

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.saga.caching import Cache, of_handler
from marty_msf.worker.saga.calling import marks
from marty_msf.worker.saga.calling.marks import FunctionT

_MARK: Final = "__marty_step_cache__"


def cached_saga_step(ttl: int, key: str | None = None) -> Callable[[FunctionT], FunctionT]:
    """Use a result of this handler again for `ttl` seconds, instead of calling it.

    `key` is CEL that says what the result depends on, as in "context.customer_id"; without it all of the context and the
    step's data have to be the same. Only for steps that change nothing: one with a compensation, or the pivot, is never
    cached, and registering such a handler together with a compensation raises InvalidDefinition. Only marks the function:
    called directly it is as before; what it raises is never kept.
    """
    if callable(ttl):
        raise InvalidDefinition("@cached_saga_step", "stands without parentheses", "write @cached_saga_step(ttl=300)")
    cache = of_handler(ttl, key)

    def mark(function: FunctionT) -> FunctionT:
        return marks.put(function, _MARK, cache, "@cached_saga_step")

    return mark


def cache_of(function: object) -> Cache | None:
    """What a function was marked with."""
    mark = getattr(function, _MARK, None)
    return mark if isinstance(mark, Cache) else None
