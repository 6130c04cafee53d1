"""When an event that Kafka refused is tried again, and when it is given up. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttemptRules:
    """What the spec says about refused events."""

    #: Attempts before an event is given up, unless the event itself says otherwise.
    threshold: int
    #: No event is tried more often, whatever it says itself.
    max_attempts: int
    backoff_ms: int
    max_backoff_ms: int

    def limit(self, own: int | None) -> int:
        """Attempts an event gets; `own` is its max_delivery_attempts."""
        return min(own or self.threshold, self.max_attempts)

    def wait_ms(self, attempts: int) -> int:
        """The wait after so many attempts (at least one): doubles, up to the longest."""
        # Beyond 2^40 of anything the longest wait is reached; larger powers would only cost.
        return min(self.backoff_ms << min(attempts - 1, 40), self.max_backoff_ms)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an event after an attempt that was refused."""

    attempts: int
    dead: bool
    #: Until the next attempt; 0 when there is none.
    wait_ms: int


def verdict(rules: AttemptRules, own_limit: int | None, attempts: int) -> Verdict:
    """`attempts` were made, the refused one included."""
    dead = attempts >= rules.limit(own_limit)
    return Verdict(attempts, dead, 0 if dead else rules.wait_ms(attempts))
