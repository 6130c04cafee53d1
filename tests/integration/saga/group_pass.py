"""One pass of the saga engine over HTTP with steps at the same time, as a process of its own.

Run as `python -m tests.integration.saga.group_pass URL RESOURCE PORT JOURNAL [GAP]`, see crash_pass.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from marty_msf.core.resources.saga import SagaSpec
from tests.integration.saga.crash_pass import Writes, run_pass
from tests.integration.saga.sagas import spec

#: One completes, one turns back behind the group, one because a sibling is refused.
ORDERS: Final[Sequence[Mapping[str, Any]]] = ({}, {"refuse": "charge"}, {"refuse": "check"})


def saga(port: int) -> SagaSpec:
    at = {"service": f"127.0.0.1:{port}"}
    return spec(
        {"name": "check", "compensation": "uncheck", "parallelGroup": "first", **at},
        {"name": "reserve", "compensation": "release", "parallelGroup": "first", **at},
        {"name": "charge", "compensation": "refund", "pivot": True, **at},
        {"name": "confirm", **at},
    )


if __name__ == "__main__":
    _, database_url, of, service_port, journal, *gap = sys.argv
    recorder = Writes(Path(journal), int(gap[0]) if gap else None) if journal != "-" else None
    asyncio.run(run_pass(database_url, of, saga(int(service_port)), recorder, ORDERS))
