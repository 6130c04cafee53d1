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
