"""What a soak run does, decided before it begins: how many events of which kinds, the relays and their kills. Pure."""

from dataclasses import dataclass
from typing import Final

from marty_msf.core.worker_config import RelayConfig

NAMESPACE: Final = "soak"
NAME: Final = "relay"
RESOURCE: Final = f"{NAMESPACE}/{NAME}"
#: Of each aggregate all events go to one topic.
EVENTS: Final = "events"
#: Refuses what is larger than SMALL_BYTES, and gets the events of every SMALL_EACH-th aggregate.
SMALL: Final = "small"
SMALL_BYTES: Final = 50_000
SMALL_EACH: Final = 50
PARTITIONS: Final = 8
#: The rest is of priority normal.
HIGH_SHARE: Final = 0.1
LOW_SHARE: Final = 0.2
#: Of the transactions: they do all their work and are rolled back, as a whole or to a savepoint that they go on behind.
ABORTED_SHARE: Final = 0.05
SAVEPOINT_SHARE: Final = 0.1
#: Of the events; they wait so many seconds, and those of their aggregate behind them.
DELAYED_SHARE: Final = 0.0005
DELAY_SECONDS: Final = (0.5, 5.0)
#: A poison event is the last one of an aggregate of its own, behind so many that are in order.
BEFORE_POISON: Final = 2
POISON_BYTES: Final = 60_000

BATCH_SIZE: Final = 250
IN_FLIGHT: Final = 4
#: Batches grow to four times their size; whoever is killed, or refused an event, sends these again at most.
REPEATED_EACH: Final = IN_FLIGHT * BATCH_SIZE * 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, how long, how rough."""

    seconds: float = 600
    #: Events per second of all writers together.
    rate: int = 5000
    writers: int = 4
    aggregates: int = 10_000
    #: Of one transaction, each of another aggregate.
    events_each: int = 25
    payload_bytes: int = 200
    relays: int = 2
    #: One of the relays, whichever, is killed every so many seconds, give or take a fifth.
    kill_seconds: float = 15
    poison_seconds: float = 20
    #: How long the last events may take when all disturbance is over.
    quiet_seconds: float = 300
    seed: int = 7


def config(bootstrap: str) -> RelayConfig:
    """The relays' configuration."""
    return RelayConfig.model_validate(
        {
            "role": "relay",
            "namespace": NAMESPACE,
            "name": NAME,
            "spec": {
                "database": {"urlSecretRef": {"name": "soak"}},
                "kafka": {"bootstrapServers": bootstrap},
                "batchSize": BATCH_SIZE,
                "parallelProcessors": IN_FLIGHT,
                "retry": {"backoffMs": 200, "maxBackoffMs": 1000},
                "deadLetter": {"threshold": 3},
            },
        }
    )
