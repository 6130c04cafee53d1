"""The problems a worker has now, as `/status`, `/readyz` and the logs show them."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from marty_msf.core.errors import (
    AuthenticationFailed,
    BrokerRefused,
    BrokerUnavailable,
    DatabaseUnavailable,
    HandlersUnusable,
    InvalidDatabaseUrl,
    MartyError,
    OutboxOwned,
    OutboxRestored,
    PoisonEvent,
    PositionLost,
    ReadModelMismatch,
    SchemaOutdated,
    TopicUnavailable,
)
from marty_msf.core.worker_status import Problem, ProblemReason

logger = logging.getLogger(__name__)

REASONS: Final[Mapping[type[BaseException], ProblemReason]] = MappingProxyType(
    {
        DatabaseUnavailable: ProblemReason.DATABASE_UNAVAILABLE,
        InvalidDatabaseUrl: ProblemReason.DATABASE_UNAVAILABLE,
        SchemaOutdated: ProblemReason.SCHEMA_OUTDATED,
        BrokerUnavailable: ProblemReason.BROKER_UNAVAILABLE,
        BrokerRefused: ProblemReason.BROKER_UNAVAILABLE,
        AuthenticationFailed: ProblemReason.BROKER_UNAVAILABLE,
        TopicUnavailable: ProblemReason.TOPIC_UNAVAILABLE,
        HandlersUnusable: ProblemReason.HANDLERS_UNUSABLE,
        ReadModelMismatch: ProblemReason.READ_MODEL_MISMATCH,
        PoisonEvent: ProblemReason.POISON_EVENT,
        PositionLost: ProblemReason.POSITION_LOST,
        OutboxOwned: ProblemReason.OUTBOX_OWNED,
        OutboxRestored: ProblemReason.OUTBOX_RESTORED,
    }
)


def reason_of(error: BaseException) -> ProblemReason:
    """The stable reason for an error; InternalError for what nobody expected."""
    return REASONS.get(type(error), ProblemReason.INTERNAL_ERROR)


class Board:
    """Current problems by reason; logs each when it appears, changes or goes, never again in between."""

    def __init__(self) -> None:
        self._problems: dict[ProblemReason, Problem] = {}

    def report(self, reason: ProblemReason, message: str, *, blocking: bool = True, unmet: bool = False) -> None:
        """Put a problem up. `blocking`: nothing can be done until it is gone (not ready). `unmet`: see Problem."""
        problem = Problem(reason=reason, message=message[:2000], blocking=blocking, unmet=unmet)
        if self._problems.get(reason) != problem:
            logger.warning("%s: %s", reason.value, message)
        self._problems[reason] = problem

    def report_error(self, error: BaseException) -> None:
        """Put up the problem an exception stands for."""
        message = str(error) if isinstance(error, MartyError) else f"{type(error).__name__}: {error}"
        self.report(reason_of(error), message)

    def replace(self, error: BaseException) -> None:
        """All that is known now. What was up before is not known to be true any more, and not known to be over either."""
        reason = reason_of(error)
        self._problems = {known: problem for known, problem in self._problems.items() if known is reason}
        self.report_error(error)

    def clear(self, *reasons: ProblemReason) -> None:
        """Take problems down; without arguments all of them."""
        for reason in reasons or tuple(self._problems):
            if self._problems.pop(reason, None) and reason is not ProblemReason.STARTING:
                logger.info("%s is over", reason.value)

    def current(self) -> list[Problem]:
        """The problems now up, oldest first."""
        return list(self._problems.values())

    @property
    def blocked(self) -> bool:
        """Whether any problem stops all work."""
        return any(problem.blocking for problem in self._problems.values())
