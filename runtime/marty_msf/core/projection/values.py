"""Values of events as values of columns. Strict: what would have to be guessed is refused, with the remedy."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from reprlib import Repr
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import orjson

from marty_msf.core.resources.projection import ColumnType

Convert = Callable[[Any], Any]

#: The largest integer below which every double is exact.
_EXACT_DOUBLE: Final = 2**53
#: Far inside what Postgres stores, and far above what a number in an event can mean.
_NUMERIC_DIGITS: Final = 1000
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?")
_SHOWN: Final = 80


class Unfit(ValueError):
    """A value that its column cannot hold; the message says why and what to write instead."""


def _short() -> Repr:
    """A repr that neither follows deep nesting, which Python cannot, nor writes out large values to cut them."""
    short = Repr()
    short.maxlevel = 4
    short.maxstring = short.maxother = short.maxlong = 4 * _SHOWN
    return short


def shown(value: Any) -> str:
    """A value for messages: short, whatever it is."""
    text = _short().repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({type(value).__name__})"


def _text(value: Any) -> str:
    if value.__class__ is not str:
        raise Unfit("is no string: use string(…) in the mapping or another column type")
    if "\0" in value:
        raise Unfit("contains the character U+0000, which Postgres cannot store: remove it where the event is made")
    return value


def _integer(low: int, high: int, name: str) -> Convert:
    def convert(value: Any) -> int:
        if value.__class__ is float and value.is_integer() and abs(value) <= _EXACT_DOUBLE:
            value = int(value)
        if value.__class__ is not int:
            raise Unfit(f"is no whole number: use int(…) in the mapping or another column type than {name}")
        if not low <= value <= high:
            raise Unfit(f"is outside of the range of {name}: use a wider column type")
        return value

    return convert


def _boolean(value: Any) -> bool:
    if value.__class__ is not bool:
        raise Unfit("is neither true nor false: compare it with something in the mapping")
    return value


def _double(value: Any) -> float:
    if value.__class__ not in (int, float):
        raise Unfit("is no number: use double(…) in the mapping or another column type")
    number = float(value)
    if not math.isfinite(number):
        raise Unfit("is not finite: send null instead")
    return number


def _numeric(value: Any) -> Decimal:
    if value.__class__ not in (int, float, str):
        raise Unfit("is neither a number nor a string such as '12.50'")
    # str() of a double is its shortest decimal: 0.1 becomes 0.1, not its 55 binary digits.
    text = str(value)
    if not _DECIMAL.fullmatch(text):
        raise Unfit("is no decimal number such as '12.50'")
    number = Decimal(text)
    if len(text) > _NUMERIC_DIGITS or abs(number.adjusted()) > _NUMERIC_DIGITS:
        raise Unfit(f"has more than {_NUMERIC_DIGITS} digits: round it in the mapping or where the event is made")
    return number


def _timestamptz(value: Any) -> datetime:
    moment = value
    if value.__class__ is str:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise Unfit("is no ISO 8601 time such as '2026-01-31T12:00:00Z'") from None
    if not isinstance(moment, datetime):
        raise Unfit("is no ISO 8601 string: a number does not say its unit, use timestamp(…) in the mapping")
    if moment.tzinfo is None:
        raise Unfit("has no offset from UTC: send '…Z' or '…+02:00'")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise Unfit("is outside of the years 1 to 9999") from None


def _date(value: Any) -> date:
    if value.__class__ is str and len(value) == len("2026-01-31"):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise Unfit("is no date such as '2026-01-31'")


def _uuid(value: Any) -> UUID:
    if value.__class__ is str:
        try:
            return UUID(value)
        except ValueError:
            pass
    raise Unfit("is no UUID such as '6ba7b810-9dad-11d1-80b4-00c04fd430c8'")


def _jsonb(value: Any) -> str:
    try:
        text = orjson.dumps(value).decode()
    except (TypeError, ValueError):
        raise Unfit("is no JSON value, or nested deeper than 250 levels: send less or map a part of it") from None
    if "\\u0000" in text and "\0" in _strings(value):
        raise Unfit("contains the character U+0000, which Postgres cannot store: remove it where the event is made")
    return text


def _strings(value: Any) -> str:
    """Every string inside a JSON value, joined."""
    match value:
        case str():
            return value
        case dict():
            return "".join(_strings(item) for pair in value.items() for item in pair)
        case list():
            return "".join(map(_strings, value))
        case _:
            return ""


#: Column type -> conversion of a value that is not None to what the driver stores. Raises Unfit.
CONVERSIONS: Final[Mapping[ColumnType, Convert]] = MappingProxyType(
    {
        ColumnType.TEXT: _text,
        ColumnType.BIGINT: _integer(-(2**63), 2**63 - 1, "bigint"),
        ColumnType.INTEGER: _integer(-(2**31), 2**31 - 1, "integer"),
        ColumnType.BOOLEAN: _boolean,
        ColumnType.DOUBLE: _double,
        ColumnType.NUMERIC: _numeric,
        ColumnType.TIMESTAMPTZ: _timestamptz,
        ColumnType.DATE: _date,
        ColumnType.UUID: _uuid,
        ColumnType.JSONB: _jsonb,
    }
)
