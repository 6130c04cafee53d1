"""Kafka for a relay in the application's own process, by the keys that Python's Kafka clients use."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from marty_msf.core.errors import InvalidDefinition, MartyError
from marty_msf.core.resources.kafka import BATCH_BYTES, Compression
from marty_msf.patterns.kafka import CONNECTION_KEYS, choice, connection_of, refuse_unknown
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.health import brokers
from marty_msf.worker.broker.producer import ACKNOWLEDGE_SECONDS, KafkaProducer
from marty_msf.worker.broker.quiet import quiet_client
from marty_msf.worker.broker.sending import Tuning

CLIENT_ID: Final = "marty-relay"
#: Kafka keeps the order of an idempotent producer with so many requests at most.
MOST_IN_FLIGHT: Final = 5
PRODUCER_KEYS: Final = (
    "client_id",
    "enable_idempotence",
    "acks",
    "retries",
    "max_in_flight_requests_per_connection",
    "connections_max_idle_ms",
    "batch_size",
    "linger_ms",
    "compression_type",
)


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """Whether Kafka answers now; `brokers` are `host:port` as Kafka tells them, `error` names what is wrong and the remedy."""

    status: Literal["healthy", "unhealthy"]
    brokers: Sequence[str] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class KafkaMessageBroker:
    """Where a relay publishes to. Connects to nothing by itself: each producer is a session of its own."""

    connection: KafkaConnection
    tuning: Tuning
    client_id: str = CLIENT_ID

    def producer(
        self, batch_bytes: MutableMapping[str, int], acknowledge_seconds: float = ACKNOWLEDGE_SECONDS
    ) -> KafkaProducer:
        """A producer that is not started yet; `batch_bytes` outlives it, see KafkaProducer."""
        return KafkaProducer(
            self.connection,
            batch_bytes,
            self.client_id,
            tuning=self.tuning,
            acknowledge_seconds=acknowledge_seconds,
        )

    async def health_check(self) -> BrokerHealth:
        """Connect, log in and ask for the brokers; takes at most some ten seconds, and raises nothing."""
        try:
            with quiet_client():
                return BrokerHealth("healthy", await brokers(self.connection, self.client_id))
        except MartyError as error:
            return BrokerHealth("unhealthy", error=str(error))


def create_kafka_message_broker(settings: Mapping[str, object]) -> KafkaMessageBroker:
    """The Kafka of a relay. Raises InvalidDefinition for a key that is not known or a value that would not be kept.

    Where it is: `bootstrap_servers` (`host:port,…` or a list), `client_id`, `connections_max_idle_ms` (default 540000).
    Security: `security_protocol` (PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL), `sasl_mechanism` (PLAIN, SCRAM-SHA-256,
    SCRAM-SHA-512), `sasl_plain_username`, `sasl_plain_password`; `ssl_cafile`, `ssl_certfile`, `ssl_keyfile` are files in
    PEM form, read for each new connection. Without `ssl_cafile` the authorities of the system are trusted.
    Batches: `batch_size` (bytes of a record batch before compression, default 1000000), `linger_ms` (0 to 1000, default
    0; at most half of OutboxConfig's batch_timeout_ms), `compression_type` (none, gzip, snappy, lz4, zstd).

    Some things are always so, and a value that says otherwise is refused. `enable_idempotence` is True and `acks` is
    "all", or an event could be lost or stored twice. `retries` is at least 1: a batch is sent again until Kafka has it
    or refuses it, and an outage of Kafka never uses up an event's attempts. `max_in_flight_requests_per_connection` is 1
    to 5: it is an upper bound, and one request to each broker is on its way at a time.
    """
    if not isinstance(settings, Mapping):
        raise InvalidDefinition(
            "settings", f"are a {type(settings).__name__}", "give a mapping with bootstrap_servers …"
        )
    refuse_unknown(settings, (*CONNECTION_KEYS, *PRODUCER_KEYS))
    given = {key: value for key, value in settings.items() if value is not None}
    _always(given, "enable_idempotence", lambda value: value is True, "True: without it events can be stored twice")
    _always(given, "acks", lambda value: value in ("all", -1, "-1"), '"all": other values can lose events')
    _number(given, "retries", 1, 2**31 - 1, 1)
    _number(given, "max_in_flight_requests_per_connection", 1, MOST_IN_FLIGHT, 1)
    client_id = given.get("client_id", CLIENT_ID)
    if not isinstance(client_id, str) or not 1 <= len(client_id) <= 249 or not client_id.isprintable():
        raise InvalidDefinition("client_id", f"{client_id!r} is no name", "give 1 to 249 printable characters")
    tuning = Tuning(
        linger_ms=_number(given, "linger_ms", 0, 1000, 0),
        batch_bytes=_number(given, "batch_size", 1024, 16_777_216, BATCH_BYTES),
        compression=Compression(choice(given, "compression_type", [*Compression], Compression.NONE)),
        connections_max_idle_ms=_number(given, "connections_max_idle_ms", 1000, 2**31 - 1, 540_000),
    )
    connection = connection_of({key: given[key] for key in CONNECTION_KEYS if key in given})
    return KafkaMessageBroker(connection, tuning, client_id)


def _always(settings: Mapping[str, object], key: str, holds: Callable[[object], bool], remedy: str) -> None:
    if key in settings and not holds(settings[key]):
        raise InvalidDefinition(key, f"{settings[key]!r} is not what a relay does", f"remove it or set it to {remedy}")


def _number(settings: Mapping[str, object], key: str, least: int, most: int, default: int) -> int:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidDefinition(key, f"{value!r} is not possible", f"use a whole number from {least} to {most}")
    return value
