"""Lanes: a key's lane is a hash computed by Postgres and stored with the row; workers own lanes, never rows."""

import math
from collections.abc import Sequence
from typing import Final

#: Fixed for ever: stored rows carry their lane. SQL: `marty.lane_of(key)`.
LANES: Final = 64


def surplus(held: Sequence[int], lanes: int, workers: int) -> list[int]:
    """Lanes a worker should hand back so that all `workers` own their fair share of `lanes`; the highest go first."""
    share = math.ceil(lanes / max(workers, 1))
    return sorted(held)[share:]
