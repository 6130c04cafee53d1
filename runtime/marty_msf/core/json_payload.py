"""A payload as JSON, exact: what JSON cannot say is refused by its path, never sent as something else. Pure."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final

import orjson
from pydantic import BaseModel

from marty_msf.core.errors import InvalidEvent

#: Deeper than what the encoder takes.
DEPTH: Final = 300
SHOWN_CHARACTERS: Final = 80
#: By itself the encoder leaves fields of dataclasses out whose names begin with an underscore.
_EXACT: Final = orjson.OPT_PASSTHROUGH_DATACLASS
REMEDY: Final = "give JSON values, dates, UUIDs, decimals and enumerations, or the whole payload as bytes"


def encode(value: Any, path: str = "payload") -> bytes:
    """UTF-8. Dates become RFC 3339 (a time without a zone has no offset), decimals text without loss, enumerations their values. Raises InvalidEvent."""
    try:
        encoded = orjson.dumps(value, default=_plain, option=_EXACT)
    except (TypeError, RecursionError) as error:
        where, problem = next(_refused(value, path, 0), (path, str(error)))
        raise InvalidEvent(f"{where}: {problem}: {REMEDY}") from None
    # Not-a-number and infinity become null there: looked for only where there is a null.
    if b"null" in encoded and (found := next(_refused(value, path, 0), None)):
        raise InvalidEvent(f"{found[0]}: {found[1]}: give a number, or null where there is none")
    return encoded


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return str(value)
        case BaseModel():
            return value.model_dump(mode="json")
        case Mapping():
            return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    raise TypeError


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _refused(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Path and problem of what is no JSON."""
    if depth > DEPTH:
        yield path[:SHOWN_CHARACTERS] + "…", "it is nested too deeply, or contains itself"
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = _fields(value)
    match value:
        case BaseModel():
            yield from _refused(value.model_dump(mode="json"), path, depth + 1)
        case Enum():
            yield from _refused(value.value, path, depth + 1)
        case Mapping():
            for key, item in value.items():
                if type(key) is not str:
                    yield path, f"its key {shown(key)} is no text"
                    return
                yield from _refused(item, f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]", depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _refused(item, f"{path}[{index}]", depth + 1)
        case float() if not math.isfinite(value):
            yield path, f"{value} is no number in JSON"
        case _:
            try:
                orjson.dumps(value, default=_plain, option=_EXACT)
            except (TypeError, RecursionError) as error:
                told = isinstance(value, str | int)
                yield path, f"{shown(value)}: {error}" if told else f"{shown(value)} is no JSON value"


def shown(value: Any, characters: int = SHOWN_CHARACTERS) -> str:
    """A value for people: the beginning of what Python calls it."""
    try:
        text = repr(value)
    except Exception:  # of a value that is refused anyhow: the refusal must not fail for it
        text = f"a {type(value).__name__}"
    return text if len(text) <= characters else text[:characters] + "…"
