"""Where one contender works in one round."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Site:
    """A database and a topic of its own."""

    name: str
    url: str
    bootstrap: str
    topic: str
    #: For its logs and configuration.
    directory: Path


class Running(Protocol):
    """A relay that can be stopped while a backlog is written."""

    #: Its processes now, by what they are.
    pids: Mapping[str, int]

    async def resume(self) -> None:
        """Go to work."""

    async def pause(self) -> None:
        """Stop, so that nothing that is inserted now leaves before `resume`."""
