"""What the spec says about publishing, in the units the relay works with. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from marty_msf.core.errors import MartyError, TopicUnavailable
from marty_msf.core.outbox.attempts import AttemptRules, verdict
from marty_msf.core.outbox.batch_size import PROMPT_SECONDS
from marty_msf.core.outbox.cause import cause
from marty_msf.core.resources.outbox_relay import Blocking, OutboxRelaySpec
from marty_msf.store.outbox_held import Refusal
from marty_msf.worker.relay.batch import EVENT_TYPE, TOPIC, Row
from marty_msf.worker.relay.shared import MISSING_SECONDS
from marty_msf.worker.relay.work import Level


@dataclass(frozen=True, slots=True)
class Rules:
    """How events are batched, ordered by urgency, tried again and given up."""

    batch_size: int
    batch_size_adapts: bool
    #: A batch that Kafka acknowledges within this time may be larger.
    prompt_seconds: float
    prefetch: int
    #: Batches that wait for their acknowledgement at most, and as many events as full ones have that wait to be written down:
    #: a crash repeats at most these.
    in_flight: int
    weights: Mapping[Level, int]
    attempts: AttemptRules
    #: Whether a dead letter holds the later events of its aggregate.
    dead_block: bool
    analyses: bool

    def unusable_seconds(self, error: TopicUnavailable) -> float:
        """How long nothing is sent to a topic. Of one that is forbidden it shows only when it is tried whether it still is."""
        return self.attempts.max_backoff_ms / 1000 if error.forbidden else MISSING_SECONDS

    def refusal(self, row: Row, attempts: int, error: MartyError, own_limit: int | None) -> Refusal:
        """What becomes of an event that was refused; `attempts` were made."""
        error_type = type(error.__cause__ or error).__name__
        found = cause(error_type, row[TOPIC], row[EVENT_TYPE], str(error)) if self.analyses else None
        return Refusal(verdict(self.attempts, own_limit, attempts), found, error_type, str(error))


def rules_of(spec: OutboxRelaySpec) -> Rules:
    """From the resource's spec."""
    return Rules(
        batch_size=spec.batch_size,
        batch_size_adapts=spec.enable_batch_optimization,
        # A batch in transactions costs by their number, hardly by its events: as long as it is full, it may be larger.
        prompt_seconds=math.inf if spec.kafka.producer.transactional else PROMPT_SECONDS,
        prefetch=spec.prefetch_count,
        in_flight=spec.parallel_processors,
        weights={
            Level.HIGH: spec.priorities.high,
            Level.NORMAL: spec.priorities.normal,
            Level.OLDEST: spec.priorities.low,
        },
        attempts=AttemptRules(
            threshold=spec.dead_letter.threshold,
            max_attempts=spec.retry.max_attempts,
            backoff_ms=spec.retry.backoff_ms,
            max_backoff_ms=spec.retry.max_backoff_ms,
        ),
        dead_block=spec.dead_letter.blocking is Blocking.KEY,
        analyses=spec.dead_letter.analysis,
    )
