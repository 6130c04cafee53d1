"""Cached results of steps: which calls may be answered from a cache, and under which key. Pure.

A key is a hash: of how the step is called, of its data, and of the value that says what its answer depends on. So an edit
of the step's call begins anew, and nothing of a context is readable in a shared cache.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from marty_msf.core.errors import ExpressionError, InvalidDefinition
from marty_msf.core.expressions import Expression
from marty_msf.core.saga.instance import RESERVED

LONGEST_SECONDS: Final = 2_592_000
#: A larger answer is not kept: it would push out many small ones.
ENTRY_LIMIT_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Cache:
    """For how long, and by what, results of a step are kept."""

    ttl_seconds: int
    #: What the answer depends on; None: on the whole context.
    key: Expression | None
    #: Names how the step is called: the same for steps that are called alike.
    identity: str


def identity(*parts: Any) -> str:
    """A name for JSON values."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def key_of(cache: Cache, resource: str, context: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
    """The key of a call with this context and data; None when a name in the key's expression is missing.

    Raises ExpressionError when the expression fails, or gives what is no JSON.
    """
    value: Any = context
    if cache.key is not None:
        value = cache.key.value({**context, RESERVED: context})
        if value is None:
            return None
    try:
        return f"marty:step:{identity(resource, cache.identity, data, value)}"
    except TypeError as error:
        path = cache.key.path if cache.key else "key"
        raise ExpressionError(f"{path}: gave what is no JSON ({error}): make it text or a number") from None


def encoded(result: Mapping[str, Any]) -> bytes | None:
    """A result as the cache keeps it; None when it is too large."""
    kept = orjson.dumps(result)
    return kept if len(kept) <= ENTRY_LIMIT_BYTES else None


def decoded(kept: bytes) -> Mapping[str, Any] | None:
    """The inverse; None for what is no result: a shared cache may hold anything."""
    try:
        result = orjson.loads(kept)
    except orjson.JSONDecodeError:
        return None
    return result if isinstance(result, dict) else None


def of_handler(ttl: int, key: str | None) -> Cache:
    """The cache of a Python handler. Raises InvalidDefinition."""
    path = "cached_saga_step"
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 1 <= ttl <= LONGEST_SECONDS:
        raise InvalidDefinition(
            f"{path}(ttl=…)", f"{ttl!r} is no whole number from 1 to {LONGEST_SECONDS}", "give seconds"
        )
    if not (key is None or isinstance(key, str)):
        raise InvalidDefinition(
            f"{path}(key=…)", f"{key!r} is no text", 'give CEL such as "context.customer_id", or leave it out (None)'
        )
    return Cache(ttl, None if key is None else Expression(key, f"{path}(key=…)"), identity("handler", key))
