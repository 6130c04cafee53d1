"""What to do with a partition of saga journals or contexts, now that some or all of its instances are gone."""

from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

#: Instances whose rows are put aside and back while their partition is locked: some ten milliseconds.
MOST_KEPT: Final = 1000
#: Emptying a partition pays only if it frees this much, and half of it at least.
LEAST_FREED_BYTES: Final = 8 << 20


class Step(Enum):
    """What comes next for a partition."""

    LEAVE = "leave"
    #: Empty it but for what live, parked and recently ended instances have there.
    ROTATE = "rotate"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Partition:
    """One of the daily tables, or the one for what no daily one is there for."""

    oid: int
    #: `marty.saga_journal_20260131`.
    name: str
    #: Ids below this one belong here; None for the table of the rest.
    behind: UUID | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Use:
    """What a partition holds for instances that are still there."""

    #: Counted up to MOST_KEPT + 1.
    instances: int
    bytes: int


def worth_a_look(partition: Partition, settled: UUID) -> bool:
    """Whether its use matters; nobody starts instances with ids below `settled` any more."""
    if partition.behind is None:
        return partition.size_bytes >= LEAST_FREED_BYTES
    return partition.behind <= settled


def decide(partition: Partition, use: Use) -> Step:
    """The next step for a partition that is worth a look. After a rotation it is LEAVE until all is gone."""
    if partition.behind is not None and use.instances == 0:
        return Step.DROP
    freed = partition.size_bytes - use.bytes
    if use.instances <= MOST_KEPT and freed >= max(LEAST_FREED_BYTES, use.bytes):
        return Step.ROTATE
    return Step.LEAVE
