"""Which instances may not work at the same time: the semantic lock of a saga."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import Expression, Model, Rule


class SemanticLock(Model):
    """Instances whose keys give the same text run one after the other, also those of other Sagas of the namespace."""

    key: Expression | None = Field(
        None, description="CEL over the context that gives text or an integer: what the instance works on."
    )
    keys: list[Expression] | None = Field(
        None, min_length=1, max_length=8, description="Instead of key: several, which the instance gets all at once."
    )
    lease_seconds: int = Field(
        600,
        ge=30,
        le=604_800,
        description="When no worker runs for so long, others may take the lock; the instance is then Parked.",
    )
    on_conflict: Literal["Wait", "Reject"] = Field(
        "Wait", description="While another instance holds it: Wait for its turn, or end as Failed (Reject)."
    )

    RULES: ClassVar[Sequence[Rule]] = (
        Rule("has(self.key) != has(self.keys)", "has no key, or both forms: give exactly one of key and keys"),
    )


def check_lock(path: str, lock: SemanticLock) -> None:
    """Raise InvalidDefinition for what is wrong within it; the RULES say the same to the API server."""
    if (lock.key is None) is (lock.keys is None):
        problem = "has no key" if lock.key is None else "has both key and keys"
        raise InvalidDefinition(path, problem, "give exactly one of key and keys")


def key_sources(path: str, lock: SemanticLock) -> Sequence[tuple[str, str]]:
    """The expressions of the keys, each with its path."""
    if lock.key is not None:
        return [(f"{path}.key", lock.key)]
    return [(f"{path}.keys[{index}]", source) for index, source in enumerate(lock.keys or ())]
