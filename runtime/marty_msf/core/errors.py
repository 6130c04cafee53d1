"""Every error Marty raises on purpose. `retryable` says whether the same call may succeed later without a person's help."""

from collections.abc import Iterable


class MartyError(Exception):
    """Root of all errors of this project; the message names the path, the value and the remedy."""

    retryable: bool = False


class InvalidDefinition(MartyError):
    """A resource or definition that can never run as written.

    `path` is the field (for instance `spec.steps[2].condition`).
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}: {remedy}")
        self.path = path
        self.problem = problem
        self.remedy = remedy


class MappingInvalid(InvalidDefinition):
    """An application's outbox table is not as `spec.source` says, or may not be used: nothing of it is published."""


class ExpressionError(MartyError):
    """A CEL expression that does not compile, or whose evaluation met a type error."""


class LeaseLost(MartyError):
    """The lane went to another owner: its new epoch refuses our writes. The owner drops the lane and goes on."""

    retryable = True


class IllegalTransition(MartyError):
    """An event that the state machine does not allow in this state; nothing was changed."""


class SchemaOutdated(MartyError):
    """The database schema is older than this program needs, or was never installed: run `marty migrate`."""

    retryable = True


class DatabaseUnavailable(MartyError):
    """Postgres refused or dropped the connection; nothing was committed by the failed call."""

    retryable = True


class LockUnavailable(DatabaseUnavailable):
    """Another transaction holds what the statement needs, and did not end in time."""


class InvalidDatabaseUrl(DatabaseUnavailable):
    """The database URL itself has something wrong: as long as it stays as it is, no waiting helps."""

    retryable = False


class DatabaseMissing(MartyError):
    """No database is configured, and the embedded one cannot be used here."""


class NotRunning(MartyError):
    """The call needs a component that was not started, or that runs already."""


class BrokerUnavailable(MartyError):
    """Kafka refused or dropped the connection, or did not acknowledge in time; the bytes may have arrived."""

    retryable = True


class BatchTooLarge(BrokerUnavailable):
    """A topic takes smaller batches only; the next ones are smaller."""


class NotSent(BrokerUnavailable):
    """A batch that is held back, because another one of its session was refused or given up: that one tells why."""


class BrokerRefused(BrokerUnavailable):
    """Kafka is there, but not with this protocol, these certificates or this login: waiting does not help.

    It is tried again all the same: a corrected Secret is read by the next connection.
    """

    retryable = False


class AuthenticationFailed(BrokerRefused):
    """Kafka does not believe who the client says it is, or wants to know."""


class TopicUnavailable(MartyError):
    """A Kafka topic is missing, or `forbidden` to our principal; `topics` are those it is about, as far as it is known."""

    retryable = True

    def __init__(self, message: str, topics: Iterable[str] = (), *, forbidden: bool = False) -> None:
        super().__init__(message)
        self.topics = frozenset(topics)
        self.forbidden = forbidden


class PoisonEvent(MartyError):
    """An event that cannot be applied, or published, as it is; nothing is lost."""


class PoisonBatch(MartyError):
    """Kafka refuses a batch for one of its records, without saying which: they are to be tried one by one."""


class InvalidEvent(MartyError):
    """An event that cannot be published as it is: its topic, type, key, headers or size."""


class PayloadTooLarge(InvalidEvent):
    """An event whose payload is over the limit: keep the document elsewhere and send an identifier of it."""


class OutsideTransaction(MartyError):
    """A call that only means something in the caller's transaction came without one; nothing was written."""


class TransactionFailed(MartyError):
    """A transaction in which a statement failed was about to be committed; nothing of it was written."""


class HandlersUnusable(MartyError):
    """The module with the user's handlers cannot be imported, or lacks one that the definition names."""


class ReadModelMismatch(MartyError):
    """The read-model table has other columns or another key than the Projection declares, or another Projection."""


class PositionLost(MartyError):
    """The stored Kafka offset was removed by retention: going on would silently skip events."""


class OutboxOwned(MartyError):
    """Another OutboxRelay owns the outbox of this database."""

    retryable = True


class OutboxRestored(MartyError):
    """The database's system identifier changed, so the stored cursor's transaction ids mean nothing any more."""


class NotDead(MartyError):
    """A dead letter was named that is none: `held` says whether the event waits to be sent, or is not there at all."""

    def __init__(self, message: str, *, held: bool) -> None:
        super().__init__(message)
        self.held = held


class UnknownSaga(MartyError):
    """There is no instance with this id among the sagas that were asked."""


class BusinessKeyTaken(MartyError):
    """A start names a business key whose instance follows other steps. Nothing was started; `saga_id` is that instance."""

    def __init__(self, message: str, saga_id: str) -> None:
        super().__init__(message)
        self.saga_id = saga_id
