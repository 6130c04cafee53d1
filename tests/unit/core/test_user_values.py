"""What users' Python code hands over: JSON that says what was meant, or an error; errors that can be kept."""

from dataclasses import dataclass
from enum import Enum
from math import inf, nan
from typing import Any

import pytest

from marty_msf.core.user_values import as_json, keepable, said


@dataclass
class Plain:
    total: Any


@dataclass(slots=True)
class Slotted:
    total: Any


class Odd(Enum):
    NOTHING = nan


@pytest.mark.parametrize(
    "value",
    [
        *({"a": nan}, {"a": [1, (inf,)]}, {"a": {"b": -inf}, "c": None}, nan),
        *(Plain(nan), {"a": Slotted(nan)}, {"a": [Plain(Slotted((nan,)))]}, Odd.NOTHING, {"a": Plain(Odd.NOTHING)}),
    ],
)
def test_what_json_has_no_number_for_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="NaN and infinity"):
        as_json(value)


def test_null_is_a_value_like_others() -> None:
    assert as_json({"a": None, "b": [1.5, "null"]}) == b'{"a":null,"b":[1.5,"null"]}'
    assert as_json({"a": Plain(None), "b": Slotted(2)}) == b'{"a":{"total":null},"b":{"total":2}}'


def test_an_error_says_what_can_be_kept_of_it() -> None:
    assert said(ValueError("name \udcff")) == "name ?"
    assert said(KeyError("card")) == "'card'"
    assert len(said(ValueError("x" * 10_000))) == 1000


def test_texts_that_postgres_cannot_keep_are_known() -> None:
    assert keepable("order-\U0001f600")
    assert not keepable("a\0b")
    assert not keepable("a\ud800b")
