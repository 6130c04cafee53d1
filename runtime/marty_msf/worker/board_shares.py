"""One board for several parts of a worker that may have the same kind of problem, each without knowing of the others."""

from typing import Final

from marty_msf.core.worker_status import Problem, ProblemReason
from marty_msf.worker.board import Board


class Shares:
    """What the parts of one worker report, joined by reason on the worker's board."""

    def __init__(self, board: Board) -> None:
        self._board: Final = board
        self._shares: list[Share] = []

    def share(self) -> "Share":
        """A board for one more part."""
        made = Share(self)
        self._shares.append(made)
        return made

    def show(self, reason: ProblemReason) -> None:
        """Put on the worker's board what the parts say now."""
        said = [problem for share in self._shares for problem in share.current() if problem.reason is reason]
        if not said:
            self._board.clear(reason)
            return
        self._board.report(
            reason,
            "; ".join(dict.fromkeys(problem.message for problem in said)),
            blocking=any(problem.blocking for problem in said),
            unmet=any(problem.unmet for problem in said),
        )


class Share(Board):
    """The board of one part. It never takes down what another part put up."""

    def __init__(self, shares: Shares) -> None:
        super().__init__()
        self._shares = shares

    def report(self, reason: ProblemReason, message: str, *, blocking: bool = True, unmet: bool = False) -> None:
        """See Board.report."""
        self._problems[reason] = Problem(reason=reason, message=message[:2000], blocking=blocking, unmet=unmet)
        self._shares.show(reason)

    def clear(self, *reasons: ProblemReason) -> None:
        """See Board.clear."""
        for reason in reasons or tuple(self._problems):
            if self._problems.pop(reason, None):
                self._shares.show(reason)
