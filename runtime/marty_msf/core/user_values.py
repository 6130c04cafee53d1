"""What users' Python code hands to us, values and errors, made fit to be kept as JSON and text. Pure."""

import dataclasses
from collections.abc import Iterable
from enum import Enum
from math import isfinite
from typing import Any, Final

import orjson

SAID_CHARACTERS: Final = 1000


def as_json(value: Any) -> bytes:
    """A value as JSON. Raises TypeError for what is none, also for NaN and infinity, which orjson writes as null."""
    text = orjson.dumps(value)
    if b"null" in text and _holds_no_number(value):
        raise TypeError("NaN and infinity are no JSON numbers")
    return text


def said(error: BaseException) -> str:
    """What an error says: its beginning, with ? for what no UTF-8 can hold (of a file's name, for instance)."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be made)"
    return text[:SAID_CHARACTERS].encode(errors="replace").decode()


def kept(text: str) -> str:
    """A text as Postgres can keep it: without NUL, and with ? for lone surrogates."""
    return text.replace("\0", "").encode(errors="replace").decode()


def keepable(text: str) -> bool:
    """Whether Postgres can keep a text: without NUL and lone surrogates."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _holds_no_number(value: Any) -> bool:
    """Recursive: what could be encoded is not nested deeply. Looks into all that the encoder looks into."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        return not isfinite(value)
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    elif dataclasses.is_dataclass(value):
        inner = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return any(map(_holds_no_number, inner))
