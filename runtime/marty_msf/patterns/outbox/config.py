"""How a process publishes its outbox: checked when it is set, and the same as the spec of an OutboxRelay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.outgoing import EventPriority
from marty_msf.core.resources.kafka import ProducingKafka
from marty_msf.core.resources.outbox_relay import Blocking, DeadLetter, OutboxRelaySpec, Priorities, RelayRetry
from marty_msf.core.resources.outbox_retention import Retention, check_archive
from marty_msf.core.resources.spec import IDENTIFIER, Database, SecretKeyRef, check_topic_is_free
from marty_msf.patterns.arguments import topic_name, whole_number

_RETRY: Final = RelayRetry()
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
#: Whole numbers, by field: least and most.
BOUNDS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "batch_size": (1, 100_000),
        "batch_timeout_ms": (100, 600_000),
        "polling_interval_ms": (1, 60_000),
        "prefetch_count": (1, 100_000),
        "parallel_processors": (1, 64),
        "max_retry_attempts": (1, 1000),
        "retry_backoff_ms": (1, _HOUR_MS),
        "max_retry_backoff_ms": (1, _DAY_MS),
        "dead_letter_threshold": (1, 1000),
        "published_retention_hours": (1, 8760),
        "healthy_lag_seconds": (1, 86_400),
    }
)
_SWITCHES: Final = ("enable_batch_optimization", "enable_dead_letter_analysis", "dead_letter_blocks_key")
MOST_WEIGHT: Final = 1000


def _weights() -> dict[EventPriority, int]:
    return {EventPriority.HIGH: 8, EventPriority.NORMAL: 4, EventPriority.LOW: 1}


@dataclass(slots=True)
class OutboxConfig:
    """Each assignment is checked: InvalidDefinition with the field, the value and the remedy. A processor takes it at its start."""

    #: Events handed to Kafka at once, at most.
    batch_size: int = 500
    #: Deadline for Kafka's acknowledgement of a batch, then it is sent again; at least twice the broker's linger_ms.
    batch_timeout_ms: int = 10_000
    #: The size of batches follows the time Kafka takes to acknowledge them, from a quarter of batch_size to four times as many.
    enable_batch_optimization: bool = True
    #: Longest idle wait before the outbox is read again.
    polling_interval_ms: int = 100
    #: Events read from Postgres at once.
    prefetch_count: int = 5000
    #: Batches on their way at once.
    parallel_processors: int = 8
    #: No event is tried more often, whatever it asks for.
    max_retry_attempts: int = 10
    #: First wait of an event that Kafka refused; it doubles up to max_retry_backoff_ms.
    retry_backoff_ms: int = _RETRY.backoff_ms
    max_retry_backoff_ms: int = _RETRY.max_backoff_ms
    #: Attempts before an event becomes a dead letter, unless it has max_delivery_attempts.
    dead_letter_threshold: int = 5
    #: Where dead letters are copied to, none of Kafka's own topics; None: they stay in the database only.
    dead_letter_topic: str | None = None
    #: Group dead letters by cause.
    enable_dead_letter_analysis: bool = True
    #: A dead letter holds the later events of its aggregate, until somebody redrives or discards it.
    dead_letter_blocks_key: bool = True
    #: Shares of what goes out while everything waits.
    priority_weights: Mapping[EventPriority, int] = field(default_factory=_weights)
    #: Published events stay at least so long, and about half as long again at most.
    published_retention_hours: int = 24
    #: Table in the schema marty, none of Marty's own, that gets a copy before they go; None: no copy.
    archive_table: str | None = None
    #: Publishing is healthy while the oldest waiting event is younger.
    healthy_lag_seconds: int = 60

    def __post_init__(self) -> None:
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        _check(name, value)
        object.__setattr__(self, name, value)

    def check(self) -> None:
        """What several fields say together. Raises InvalidDefinition."""
        if self.retry_backoff_ms > self.max_retry_backoff_ms:
            raise InvalidDefinition(
                "retry_backoff_ms",
                f"{self.retry_backoff_ms} is longer than max_retry_backoff_ms {self.max_retry_backoff_ms}",
                "lower the one or raise the other",
            )
        if self.batch_timeout_ms < self.polling_interval_ms:
            raise InvalidDefinition(
                "batch_timeout_ms",
                f"{self.batch_timeout_ms} is shorter than polling_interval_ms {self.polling_interval_ms}",
                "raise the one or lower the other",
            )


def relay_spec(config: OutboxConfig, bootstrap_servers: str) -> OutboxRelaySpec:
    """What an OutboxRelay with this configuration would say. Raises InvalidDefinition."""
    config.check()
    weights = config.priority_weights
    return OutboxRelaySpec(
        database=Database(url_secret_ref=SecretKeyRef(name="of-this-process")),
        kafka=ProducingKafka(bootstrap_servers=bootstrap_servers),
        batch_size=config.batch_size,
        batch_timeout_ms=config.batch_timeout_ms,
        enable_batch_optimization=config.enable_batch_optimization,
        polling_interval_ms=config.polling_interval_ms,
        prefetch_count=config.prefetch_count,
        parallel_processors=config.parallel_processors,
        retry=RelayRetry(
            max_attempts=config.max_retry_attempts,
            backoff_ms=config.retry_backoff_ms,
            max_backoff_ms=config.max_retry_backoff_ms,
        ),
        dead_letter=DeadLetter(
            threshold=config.dead_letter_threshold,
            topic=config.dead_letter_topic,
            analysis=config.enable_dead_letter_analysis,
            blocking=Blocking.KEY if config.dead_letter_blocks_key else Blocking.NONE,
        ),
        priorities=Priorities(
            high=weights[EventPriority.HIGH], normal=weights[EventPriority.NORMAL], low=weights[EventPriority.LOW]
        ),
        retention=Retention(published_hours=config.published_retention_hours, archive_table=config.archive_table),
    )


def _check(name: str, value: Any) -> None:
    if name in BOUNDS:
        least, most = BOUNDS[name]
        whole_number(name, value, most, least)
    elif name in _SWITCHES:
        if not isinstance(value, bool):
            raise InvalidDefinition(name, f"{value!r} is neither True nor False", "correct it")
    elif name == "dead_letter_topic":
        if value is not None:
            check_topic_is_free(name, topic_name(name, value, ", or None"))
    elif name == "archive_table":
        if value is not None and not (isinstance(value, str) and re.fullmatch(IDENTIFIER, value)):
            remedy = "use 1 to 63 lower-case letters, digits and underscores, a letter first, or None"
            raise InvalidDefinition(name, f"{value!r} is no table name", remedy)
        check_archive(name, value)
    elif name == "priority_weights":
        _check_weights(value)


def _check_weights(weights: Any) -> None:
    whole = isinstance(weights, Mapping) and set(weights) == set(EventPriority)
    if not whole or not all(type(it) is int and 1 <= it <= MOST_WEIGHT for it in weights.values()):
        remedy = f"give HIGH, NORMAL and LOW a number from 1 to {MOST_WEIGHT} each"
        raise InvalidDefinition("priority_weights", f"{weights!r} are no weights", remedy)
