"""What the processor tells of itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenWriter:
    """A transaction that has written and not yet ended: its own events wait for its end."""

    #: Process id and application (`pid 4711 psql`), or the name of a prepared transaction.
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OutboxMetrics:
    """Numbers of the whole outbox, the same from every process that publishes it, at most a few seconds old."""

    #: Committed and neither published nor given up.
    pending_events: int = 0
    #: Given up: dead letters that wait for a person.
    failed_events: int = 0
    #: Published, since the outbox was installed.
    published_events: int = 0
    #: Attempts that Kafka refused, since the outbox was installed.
    failed_attempts: int = 0
    events_per_second: float = 0.0
    #: Share of the attempts of the last 30 s that Kafka refused.
    error_rate: float = 0.0
    #: Age of the oldest event that the relay has not come by.
    processing_lag_seconds: float = 0.0
    #: The same with those that it came by and holds, because Kafka refused them or an earlier one of their aggregate.
    oldest_pending_seconds: float = 0.0
    #: The one that is open for longest; sessions of other users are seen with pg_read_all_stats only.
    oldest_open_writer: OpenWriter | None = None
