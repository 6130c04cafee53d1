"""Values of JSON and CEL as values of columns."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest

from marty_msf.core.projection.values import CONVERSIONS, Unfit, shown
from marty_msf.core.resources.projection import ColumnType

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
UUID_TEXT = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        ("text", "", ""),
        ("text", "größe", "größe"),
        ("bigint", 2**63 - 1, 2**63 - 1),
        ("bigint", 5.0, 5),
        ("integer", -(2**31), -(2**31)),
        ("boolean", False, False),
        ("double precision", 1, 1.0),
        ("double precision", 0.1, 0.1),
        ("numeric", 0.1, Decimal("0.1")),
        ("numeric", "12.50", Decimal("12.50")),
        ("numeric", 7, Decimal(7)),
        ("timestamptz", "2026-01-31T12:00:00Z", NOON),
        ("timestamptz", "2026-01-31T14:00:00+02:00", NOON),
        ("timestamptz", NOON, NOON),
        ("date", "2026-01-31", date(2026, 1, 31)),
        ("uuid", UUID_TEXT, UUID(UUID_TEXT)),
        ("jsonb", {"a": [1, None, "x"]}, '{"a":[1,null,"x"]}'),
        ("jsonb", r"\u0000", r'"\\u0000"'),
    ],
)
def test_what_fits_is_stored(kind: str, value: Any, stored: Any) -> None:
    converted = CONVERSIONS[ColumnType(kind)](value)
    assert converted == stored
    assert type(converted) is type(stored)


@pytest.mark.parametrize(
    ("kind", "value", "remedy"),
    [
        ("text", 5, "string("),
        ("text", "a\0b", "U+0000"),
        ("bigint", "5", "int("),
        ("bigint", 5.5, "whole number"),
        ("bigint", True, "whole number"),
        ("bigint", 2**63, "range"),
        ("bigint", 1e300, "whole number"),
        ("integer", 2**31, "wider"),
        ("boolean", 1, "true nor false"),
        ("boolean", "true", "true nor false"),
        ("double precision", "1.5", "double("),
        ("double precision", True, "no number"),
        ("double precision", float("inf"), "finite"),
        ("numeric", "1_000", "decimal number"),
        ("numeric", "NaN", "decimal number"),
        ("numeric", float("nan"), "decimal number"),
        ("numeric", "1e5000", "digits"),
        ("numeric", "0." + "1" * 1200, "digits"),
        ("numeric", True, "neither a number"),
        ("timestamptz", "2026-01-31T12:00:00", "offset"),
        ("timestamptz", "31.1.2026", "ISO 8601"),
        ("timestamptz", 1769860800, "timestamp("),
        ("timestamptz", "0001-01-01T00:00:00+14:00", "years"),
        ("date", "2026-02-30", "no date"),
        ("date", "2026-01-31T12:00:00Z", "no date"),
        ("uuid", "order-1", "no UUID"),
        ("jsonb", {"a": ["\0"]}, "U+0000"),
        ("jsonb", timedelta(seconds=3), "no JSON"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_with_a_remedy(kind: str, value: Any, remedy: str) -> None:
    with pytest.raises(Unfit) as refused:
        CONVERSIONS[ColumnType(kind)](value)
    assert remedy in str(refused.value)


@pytest.mark.parametrize("depth", [300, 1000])
def test_a_value_nested_too_deep_is_refused_and_shown_short(depth: int) -> None:
    value = orjson.loads("[" * depth + "]" * depth)
    with pytest.raises(Unfit, match="nested deeper"):
        CONVERSIONS[ColumnType.JSONB](value)
    assert len(shown(value)) < 120
    assert len(shown({"a": {"b": value}, "text": "x" * 1_000_000})) < 120
