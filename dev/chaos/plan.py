"""What a chaos run does, decided before it begins: the saga, the orders and their fates, the pace of everything. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from marty_msf.core.worker_config import SagaConfig

NAMESPACE: Final = "chaos"
NAME: Final = "orders"
RESOURCE: Final = f"{NAMESPACE}/{NAME}"
#: Share of the calls that the service answers with an error, and that it answers too late.
FAILING: Final = 0.20
TIMING_OUT: Final = 0.05
#: Every so many orders a step refuses one for good, in turn.
REFUSED_EACH: Final = 8
REFUSING: Final = ("reserve", "hold", "discount", "charge")
PREMIUM_EACH: Final = 2
#: Every so many orders are started by SQL, in a transaction of the customer's; by two customers at once; cancelled.
SQL_EACH: Final = 10
TWICE_EACH: Final = 7
CANCELLED_EACH: Final = 25

#: Before the pivot few retries, so that outcomes stay unknown now and then and are undone.
_FORWARD: Final[Mapping[str, int]] = {"attempts": 2, "initialBackoffMs": 50, "maxBackoffMs": 400}
#: From there on so many that none is used up: one call in four fails.
_PATIENT: Final[Mapping[str, int]] = {"attempts": 200, "initialBackoffMs": 50, "maxBackoffMs": 1000}


@dataclass(frozen=True, slots=True)
class Order:
    """One order; its number decides what is to become of it."""

    number: int

    @property
    def key(self) -> str:
        """Business key of its instance."""
        return f"order-{self.number}"

    @property
    def premium(self) -> bool:
        """Whether the conditional steps are for it."""
        return self.number % PREMIUM_EACH == 0

    @property
    def refused_by(self) -> str | None:
        """The step that refuses it, if one does."""
        turn, rest = divmod(self.number, REFUSED_EACH)
        return REFUSING[turn % len(REFUSING)] if rest == 0 else None

    @property
    def customer(self) -> int:
        """Two orders, started about at the same time, have the same customer."""
        return self.number // 40 * 20 + self.number % 20

    @property
    def shelf(self) -> int:
        """Now and then an order and the next one take from the same shelf."""
        return self.number - 1 if self.number % 10 == 1 else self.number

    @property
    def locks(self) -> Sequence[str]:
        """What it works on while no other order may."""
        return (f"customer:{self.customer}", f"shelf:{self.shelf}")

    @property
    def context(self) -> Mapping[str, Any]:
        """What its instance starts with."""
        customer = {"number": self.customer, "is_premium": self.premium}
        return {"order": self.number, "customer": customer, "shelf": self.shelf, "refused_by": self.refused_by}

    @property
    def by_sql(self) -> bool:
        """Started with marty.start_saga, after a transaction that did the same for nothing and was rolled back."""
        return self.number % SQL_EACH == 3

    @property
    def twice(self) -> bool:
        """Two customers start it at the same time."""
        return self.number % TWICE_EACH == 2

    @property
    def cancelled(self) -> bool:
        """A person asks for its end while it runs; whether it still ends so depends on how far it is."""
        return self.number % CANCELLED_EACH == 4

    @property
    def steps(self) -> frozenset[str]:
        """The steps that a Completed instance of it has done."""
        plain = {"reserve", "hold", "insure", "charge", "confirm"}
        return frozenset(plain | {"discount", "thank"} if self.premium else plain)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much, how long, how rough."""

    instances: int = 20_000
    seconds: float = 600
    workers: int = 2
    #: How long a worker waits for one answer. Well above what a busy machine needs: a service that answers all calls too late gets
    #: each of them again.
    timeout_ms: int = 3000
    #: A worker, whichever, is killed after a random time between these.
    kill_seconds: tuple[float, float] = (2, 6)
    #: When Postgres is restarted, as shares of `seconds`: by turns as a crash does, and in good order.
    restarts: Sequence[float] = (1 / 3, 2 / 3)
    #: Kills after which there are no more; None: until `seconds` are over.
    kills: int | None = None
    #: How long the last instances may take when all disturbance is over.
    quiet_seconds: float = 900
    seed: int = 7
    orders: Sequence[Order] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", [Order(number) for number in range(self.instances)])


def config(service: str, timeout_ms: int) -> SagaConfig:
    """The workers' configuration, with the service at `host:port`."""

    def step(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "service": service, "action": name, **more}

    def undoable(name: str, **more: Any) -> dict[str, Any]:
        return step(name, compensation=f"undo-{name}", **more)

    return SagaConfig.model_validate(
        {
            "role": "saga",
            "namespace": NAMESPACE,
            "name": NAME,
            "spec": {
                "database": {"urlSecretRef": {"name": "chaos"}},
                "workers": 40,
                "maxParallelSteps": 2,
                "semanticLock": {"keys": ["'customer:' + string(customer.number)", "'shelf:' + string(shelf)"]},
                "stepDefaults": {"timeoutMs": timeout_ms, "retry": _FORWARD},
                "compensationDefaults": {"retry": _PATIENT},
                "steps": [
                    undoable("reserve", parallelGroup="prepare"),
                    undoable("hold", parallelGroup="prepare"),
                    undoable("insure", parallelGroup="prepare"),
                    undoable("discount", condition="customer.is_premium"),
                    undoable("charge", pivot=True),
                    step("confirm", retry=_PATIENT),
                    step("thank", retry=_PATIENT, condition="customer.is_premium"),
                ],
            },
        }
    )
