"""Data that a start gives to single steps: kept in the context under a name that no service and no handler sees.

So instances with different data follow one definition. Only definitions that say so read it: what a service or an event
puts into a context can never become another saga's data.
"""

from collections.abc import Mapping
from typing import Any, Final

#: The member of the context: step name -> data.
OWN_DATA: Final = "$data"


def parted(step: str, context: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The context without the data, and the data of this step."""
    data = context.get(OWN_DATA)
    own = data.get(step) if isinstance(data, Mapping) else None
    return without(context), own if isinstance(own, Mapping) else {}


def without(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """The context as everybody sees it."""
    return {name: value for name, value in context.items() if name != OWN_DATA}


def own_data_problem(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Why a context that had such data cannot become this one, or None: a step that had data would run without it."""
    had = before.get(OWN_DATA)
    if not isinstance(had, Mapping):
        return None
    has = after.get(OWN_DATA)
    if isinstance(has, Mapping):
        lost = sorted(name for name in had if not isinstance(has.get(name), Mapping))
        if not lost:
            return None
        what = f"{OWN_DATA}.{lost[0]}"
    else:
        what = OWN_DATA
    return f"{what} is to stay an object, it is the data that the start gave to steps: change members of a step's, or leave it out"
