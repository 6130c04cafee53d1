"""What the specs of all kinds share: the strict base model, the CEL rules it carries, and the common fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.outgoing import KAFKAS_OWN

GROUP: Final = "consistency.marty.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "marty"

DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
#: Kafka refuses the names `.` and `..`; the API server's patterns know no negation.
TOPIC: Final = r"^([a-zA-Z0-9._-]*[a-zA-Z0-9_-][a-zA-Z0-9._-]*|[.]{3,})$"
#: 1 to 65535.
_PORT: Final = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
#: `host`, `host.namespace` or `host:port`.
AUTHORITY: Final = rf"{_HOST}([.]{_HOST})*(:{_PORT})?"
#: Becomes the authority of the step's URL, so nothing else may stand in it.
SERVICE: Final = rf"^{AUTHORITY}$"
#: A relative path below the service: no scheme, query, fragment, `..` or empty part; a service may want a slash at the end.
ACTION: Final = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*/?$"
BOOTSTRAP: Final = rf"^[A-Za-z0-9.-]+:{_PORT}(,[A-Za-z0-9.-]+:{_PORT})*$"
#: An unquoted, lower-case SQL identifier; quoted again wherever it is used.
IDENTIFIER: Final = r"^[a-z_][a-z0-9_]{0,62}$"

Expression = Annotated[str, Field(min_length=1, max_length=1024)]
EventType = Annotated[str, Field(min_length=1, max_length=200)]
Topic = Annotated[str, Field(min_length=1, max_length=249, pattern=TOPIC)]
Identifier = Annotated[str, Field(min_length=1, max_length=63, pattern=IDENTIFIER)]


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule of the schema (`x-kubernetes-validations`).

    `message` is shown when `message_expression`, which may name the offending item, cannot be evaluated. `field` is the
    path below the model that the API server reports, as in `.steps`; by default the model itself. A rule that mentions
    `oldSelf` is only checked when an existing resource is changed.
    """

    rule: str
    message: str
    message_expression: str | None = None
    field: str | None = None


def indexes(limit: int) -> str:
    """CEL for the list 0 … limit - 1, to look at list items by index.

    The API server prices a rule before it accepts it, and loses sight of the bounds of items that went through `filter`
    or `map`; of `list[i]` it knows them. CEL itself has no range on the Kubernetes versions that are supported.
    """
    return f"[{', '.join(str(index) for index in range(limit))}]"


def _complete_json_schema(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Add what pydantic leaves out of a model's JSON schema: the CEL rules, and defaults that a factory makes."""
    for name, field in model.model_fields.items():
        if field.default_factory is not None:
            made = field.get_default(call_default_factory=True, validated_data={})
            default = (
                made.model_dump(mode="json", by_alias=True, exclude_none=True) if isinstance(made, Model) else made
            )
            schema["properties"][field.alias or name]["default"] = default
    if issubclass(model, Model) and model.RULES:
        schema["x-kubernetes-validations"] = [
            {
                key: value
                for key, value in (
                    ("rule", rule.rule),
                    ("message", rule.message),
                    ("messageExpression", rule.message_expression),
                    ("fieldPath", rule.field),
                )
                if value is not None
            }
            for rule in model.RULES
        ]


class Model(BaseModel):
    """Base of every spec model: camelCase outside, snake_case inside, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        json_schema_extra=_complete_json_schema,
    )

    #: Cross-field rules the API server enforces; each has a validator in the model that says the same in Python, but
    #: for those about `oldSelf`, because a model knows only the resource as it is now.
    RULES: ClassVar[Sequence[Rule]] = ()


class RunState(StrEnum):
    """Whether the resource works, waits, or has no pods at all."""

    #: The worker pods take work.
    RUNNING = "Running"
    #: The pods stay and answer, but own no lanes and take no work; everything waits durably.
    PAUSED = "Paused"
    #: No pods; everything waits durably.
    STOPPED = "Stopped"


class SecretKeyRef(Model):
    """A key of a Secret in the resource's own namespace."""

    name: str = Field(
        min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="Name of the Secret."
    )
    key: str = Field(
        "uri", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key inside the Secret."
    )


class Database(Model):
    """The team's own Postgres."""

    url_secret_ref: SecretKeyRef = Field(
        description="Secret key with the connection URL (postgresql://…); CloudNativePG's application secrets fit as they are."
    )
    pool_size: int = Field(8, ge=2, le=100, description="Connections each pod keeps open at most.")


def waits_ascend(first: str) -> Rule:
    """The rule that no first wait is longer than the longest; `check_waits` says the same in Python.

    The message cannot name the values: the API server sees no bound of an integer's text, so it finds that too dear.
    """
    return Rule(
        f"self.{first} <= self.maxBackoffMs",
        f"{first} is longer than maxBackoffMs: lower the one or raise the other",
    )


def check_waits(path: str, first_ms: int, longest_ms: int) -> None:
    """Raise InvalidDefinition when a first wait is longer than the longest."""
    if first_ms > longest_ms:
        raise InvalidDefinition(
            path, f"{first_ms} is longer than maxBackoffMs {longest_ms}", "lower the one or raise the other"
        )


def topic_is_free(field: str) -> Rule:
    """The rule that a topic in `field` is none of Kafka's own; `check_topic_is_free` says the same in Python."""
    own = ", ".join(f"'{name}'" for name in sorted(KAFKAS_OWN))
    return Rule(
        f"!has(self.{field}) || !(self.{field} in [{own}])",
        "the topic is Kafka's own, where nobody else may write: use another topic",
        field=f".{field}",
    )


def check_topic_is_free(path: str, topic: str | None) -> None:
    """Raise InvalidDefinition for a topic that Kafka keeps for itself: whatever is sent there would be refused."""
    if topic in KAFKAS_OWN:
        raise InvalidDefinition(path, f"{topic!r} is Kafka's own, where nobody else may write", "use another topic")


class Retry(Model):
    """Exponential backoff with jitter: attempt n waits min(initialBackoffMs * multiplier^(n-1), maxBackoffMs), spread by ±jitter."""

    attempts: int = Field(5, ge=1, le=1000, description="Calls made at most, the first one included.")
    initial_backoff_ms: int = Field(200, ge=1, le=3_600_000, description="Wait before the second attempt.")
    multiplier: float = Field(2, ge=1, le=100, description="Factor from one wait to the next.")
    max_backoff_ms: int = Field(30_000, ge=1, le=86_400_000, description="Longest wait between two attempts.")
    jitter: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of each wait that is spread at random, so that retries do not arrive together.",
    )

    #: Its Python side is SagaSpec's: only there the path of each retry is known.
    RULES: ClassVar[Sequence[Rule]] = (waits_ascend("initialBackoffMs"),)


class Workload(Model):
    """Fields common to all three kinds."""

    state: RunState = Field(
        RunState.RUNNING, description="Running; Paused (pods stay, take no work); Stopped (no pods)."
    )
    replicas: int = Field(
        1, ge=0, le=100, description="Worker pods. An autoscaler sets it through the scale subresource."
    )
    database: Database = Field(description="The team's own Postgres.")
