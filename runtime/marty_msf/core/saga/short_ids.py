"""Ids of instances as people read and type them: the beginning and the end, as long as that names one instance."""

import re
from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from marty_msf.core.errors import InvalidDefinition

#: The beginning is the time of the start: eight digits tell 65 seconds apart. The end is random.
_BEGINNING: Final = 8
_ENDING: Final = 6
_DIGITS: Final = 32
_GAP: Final = re.compile(r"…|\.{2,}")
_HEX: Final = re.compile(r"[0-9a-f]*")


def shortened(ids: Iterable[UUID]) -> Mapping[UUID, str]:
    """The shortest form `018f3c7a…4b9be1` that differs among these ids; at least six digits of the end."""
    wanted = list(dict.fromkeys(ids))
    for length in range(_ENDING, _DIGITS - _BEGINNING, 2):
        forms = {it: f"{it.hex[:_BEGINNING]}…{it.hex[-length:]}" for it in wanted}
        if len(set(forms.values())) == len(wanted):
            return forms
    return {it: str(it) for it in wanted}


def span(text: str) -> tuple[UUID, UUID, str]:
    """The first and the last id that `text` may stand for, and the hex digits the id ends with.

    Takes a whole id, its beginning, or beginning and end with `…` or `..` between. Raises InvalidDefinition.
    """
    parts = _GAP.split(text.strip().lower().replace("-", ""))
    beginning, ending = parts[0], "".join(parts[1:])
    digits = len(beginning) + len(ending)
    if len(parts) > 2 or not _HEX.fullmatch(beginning + ending) or digits > _DIGITS:
        raise InvalidDefinition("id", f"{text!r} is no instance's id", "give the id that `marty saga list` shows")
    if len(beginning) < _BEGINNING:
        raise InvalidDefinition(
            "id", f"{text!r} has {len(beginning)} digits before the gap", f"give at least the first {_BEGINNING}"
        )
    rest = _DIGITS - len(beginning)
    return UUID(hex=beginning + "0" * rest), UUID(hex=beginning + "f" * rest), ending
