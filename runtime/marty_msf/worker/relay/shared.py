"""What the pipeline and the sender of held events know together."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from marty_msf.worker.relay.exceptions import AheadIds, HeldKeys

#: Before a topic that is missing is looked for again.
MISSING_SECONDS: Final = 1


@dataclass(slots=True)
class Shared:
    """One relay process's memory of what does not go its lane's way."""

    #: Part of every event's `ce_source`.
    database: str
    #: Lanes that are ours and not being handed back, with their epochs.
    epochs: dict[int, int] = field(default_factory=dict)
    keys: HeldKeys = field(default_factory=HeldKeys)
    ahead: AheadIds = field(default_factory=AheadIds)
    #: Topics that are missing or forbidden to us, and when (of the monotonic clock) to look for them again. The sender of
    #: held events does.
    missing: dict[str, float] = field(default_factory=dict)
    #: Events one of which was refused with the others of its batch.
    suspect: set[int] = field(default_factory=set)
    #: Both write the lanes' rows, in different orders: one at a time, or they wait for each other for ever.
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Taken while held events are being sent.
    sending_held: asyncio.Lock = field(default_factory=asyncio.Lock)

    def miss(self, topic: str, seconds: float = MISSING_SECONDS) -> None:
        """The topic cannot be used: nothing is sent to it for so long."""
        self.missing[topic] = time.monotonic() + seconds

    def to_look_for(self, now: float) -> Sequence[str]:
        """Missing topics whose time has come."""
        return [topic for topic, at in self.missing.items() if at <= now]

    def drop(self, lane: int) -> None:
        """The lane is no longer ours."""
        self.epochs.pop(lane, None)
        self.keys.drop(lane)
        self.ahead.drop([lane])
