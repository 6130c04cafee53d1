"""The starters of one engine, one for each definition that instances are started with."""

from collections.abc import Callable, Sequence
from typing import Final

from marty_msf.core.saga.definition import Definition
from marty_msf.worker.saga.starts import Starter

#: Kept at most; the library lets every start bring its own definition.
LIMIT: Final = 256


class Starters:
    """A Saga has one, for its present definition."""

    def __init__(self, make: Callable[[Definition], Starter]) -> None:
        self._make = make
        self._by_revision: dict[str, Starter] = {}
        self._open = False

    def of(self, definition: Definition) -> Starter:
        """The starter of a definition; open if the engine is."""
        starter = self._by_revision.get(definition.revision)
        if starter is None:
            if len(self._by_revision) >= LIMIT:
                self._forget()
            starter = self._by_revision[definition.revision] = self._make(definition)
            if self._open:
                starter.open()
        return starter

    def waiting(self) -> Sequence[Starter]:
        """Those with something to write."""
        return [starter for starter in self._by_revision.values() if starter.waiting]

    def open(self) -> None:
        """Take starts from now on."""
        self._open = True
        for starter in self._by_revision.values():
            starter.open()

    def close(self) -> None:
        """Take no more starts, and refuse those not yet written."""
        self._open = False
        for starter in self._by_revision.values():
            starter.close()

    def _forget(self) -> None:
        """The oldest ones with nothing to write; what they are writing now goes on."""
        idle = [revision for revision, starter in self._by_revision.items() if not starter.waiting]
        for revision in idle[: LIMIT // 2]:
            del self._by_revision[revision]
