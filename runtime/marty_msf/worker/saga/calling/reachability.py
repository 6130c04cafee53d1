"""Which services refuse connections now, as one sentence for the board."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.board import Board

#: Failures in a row before anybody is told: a rolling update refuses a connection now and then.
TOLD_FROM: Final = 3
#: The sentence is renewed at most this often, so that counting calls does not fill the log.
RENEWED_SECONDS: Final = 10.0
#: Without calls for this long nobody knows; the problem is taken down.
FORGOTTEN_SECONDS: Final = 120.0


@dataclass(slots=True)
class _Trouble:
    since: float
    last: float
    failed: int = 0
    calls: int = 0
    told: float = field(default=float("-inf"))
    sentence: str = ""


class Reachability:
    """Counts connections that failed per URL. Never stops work: instances wait and retry by themselves."""

    def __init__(self, board: Board, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970."""
        self._board = board
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}

    def answered(self, url: str) -> None:
        """The service answered, whatever it said."""
        if url in self._troubles:
            del self._troubles[url]
            self._show()

    def refused(self, url: str, error: str) -> None:
        """No connection to the service, so the call did not reach it."""
        now = self._clock()
        trouble = self._troubles.setdefault(url, _Trouble(now, now))
        trouble.failed += 1
        trouble.calls += 1
        trouble.last = now
        if trouble.failed >= TOLD_FROM and now - trouble.told >= RENEWED_SECONDS:
            trouble.told = now
            since = datetime.fromtimestamp(trouble.since, UTC).strftime("%H:%M:%S")
            trouble.sentence = f"{trouble.failed} of {trouble.calls} calls to {url} refused since {since} UTC ({error})"
            self._show()

    def lost(self, url: str) -> None:
        """The service was reached, but the answer did not arrive (a time-out, a broken connection)."""
        if trouble := self._troubles.get(url):
            trouble.calls += 1
            trouble.last = self._clock()

    def look(self) -> None:
        """Take down what nobody called for a while."""
        now = self._clock()
        old = [url for url, trouble in self._troubles.items() if now - trouble.last > FORGOTTEN_SECONDS]
        for url in old:
            del self._troubles[url]
        if old:
            self._show()

    def _show(self) -> None:
        sentences = [trouble.sentence for trouble in self._troubles.values() if trouble.sentence]
        if sentences:
            message = f"{'; '.join(sentences)}; instances wait, none is lost"
            self._board.report(ProblemReason.STEP_SERVICE_UNREACHABLE, message, blocking=False)
        else:
            self._board.clear(ProblemReason.STEP_SERVICE_UNREACHABLE)
