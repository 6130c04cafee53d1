"""Values that are made several times for every step of every instance."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

ClassT = TypeVar("ClassT")


@dataclass_transform(frozen_default=True)
def value(cls: type[ClassT]) -> type[ClassT]:
    """As `dataclass(frozen=True, slots=True)`, but the type checker alone guards it against changes.

    The guard of the frozen ones sets each field by a call of its own: on the path of a saga's step that is a tenth of the work.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
