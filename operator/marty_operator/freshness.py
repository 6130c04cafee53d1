"""Finds what a watch missed: lists all resources now and then, and compares what passes read with what watches showed.

A watch that has gone silent is the classic way in which an operator is alive and blind; here edits are still found
(every pass reads the resource itself), new resources are found by the list, and the process is restarted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from marty_msf.core.errors import MartyError
from marty_msf.core.resources.kinds import KINDS
from marty_operator.cluster import Cluster
from marty_operator.resource import Key

logger = logging.getLogger(__name__)

LIST_SECONDS: Final = 20.0


@dataclass(slots=True)
class WatchedGenerations:
    """What the watches have shown; pure bookkeeping, times are given."""

    shown: dict[Key, int] = field(default_factory=dict)
    _behind_since: dict[Key, float] = field(default_factory=dict)

    def show(self, key: Key, generation: int | None) -> bool:
        """Take in an event; True when it tells something new (status writes repeat what is known)."""
        if generation is None:
            self.shown.pop(key, None)
            return True
        known = self.shown.get(key)
        self.shown[key] = generation
        return known != generation

    def behind_seconds(self, read: Mapping[Key, int], now: float) -> float:
        """How long the watches have owed us an edit that passes have read; 0 when they owe none."""
        behind = {key for key, generation in read.items() if self.shown.get(key, 0) < generation}
        self._behind_since = {key: self._behind_since.get(key, now) for key in behind}
        return max((now - since for since in self._behind_since.values()), default=0.0)


class Lister:
    """Tells `found(key, generation)` of every existing resource, at the start and now and then."""

    def __init__(self, cluster: Cluster, namespaces: Sequence[str], found: Callable[[Key, int], None]) -> None:
        self._cluster = cluster
        self._scopes: Sequence[str | None] = list(namespaces) or [None]
        self._found = found
        self.succeeded_at = float("-inf")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a failed list is tried again sooner."""
        while not stop.is_set():
            pause = LIST_SECONDS
            try:
                await self.run_once()
            except MartyError as error:
                logger.warning("listing resources: %s", error)
                pause = LIST_SECONDS / 5
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def run_once(self) -> int:
        """Returns how many resources exist."""
        count = 0
        for kind in KINDS:
            for scope in self._scopes:
                async for manifest in self._cluster.list(kind, scope, metadata_only=True):
                    metadata = manifest["metadata"]
                    self._found(Key(kind, metadata["namespace"], metadata["name"]), int(metadata["generation"]))
                    count += 1
        self.succeeded_at = time.monotonic()
        return count
