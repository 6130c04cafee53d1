"""How a resource reaches Kafka: the brokers, TLS, the login, and for a relay how it writes."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import BOOTSTRAP, Model, Rule

SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]

#: Keys of the Secret of a login, as Strimzi's KafkaUser writes them. Strimzi writes no username: it is the Secret's name.
CERTIFICATE_KEY: Final = "user.crt"
PRIVATE_KEY_KEY: Final = "user.key"
PASSWORD_KEY: Final = "password"  # noqa: S105  # the name of a key
USERNAME_KEY: Final = "username"

#: Below the broker's default message.max.bytes of 1,048,588, which bounds a record batch.
BATCH_BYTES: Final = 1_000_000


class AuthenticationType(StrEnum):
    """How the client proves who it is."""

    TLS = "tls"
    PLAIN = "plain"
    SCRAM_SHA_256 = "scram-sha-256"
    SCRAM_SHA_512 = "scram-sha-512"


class LoginSecret(Model):
    """A Secret in the resource's own namespace, as Strimzi makes it for a KafkaUser."""

    name: SecretName = Field(description="Name of the Secret.")


class Authentication(Model):
    """Who the client is."""

    type: AuthenticationType = Field(
        description="tls (a certificate of the client), plain, scram-sha-256 or scram-sha-512 (user and password)."
    )
    secret_ref: LoginSecret = Field(
        description=f"For tls a Secret with {CERTIFICATE_KEY} and {PRIVATE_KEY_KEY}, else with {PASSWORD_KEY} and perhaps"
        f" {USERNAME_KEY}; the Secret of a Strimzi KafkaUser fits as it is."
    )
    username: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description=f"By default the key {USERNAME_KEY} of the Secret, and without it the Secret's name. Not for tls.",
    )

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "self.type != 'tls' || !has(self.username)",
            "a client with a certificate has no user name beside it: remove username, or use plain or a scram type",
            field=".username",
        ),
    )

    @model_validator(mode="after")
    def _certificate_names_the_user(self) -> Self:
        if self.type is AuthenticationType.TLS and self.username is not None:
            raise InvalidDefinition(
                "spec.kafka.authentication.username",
                f"{self.username!r} stands beside a certificate, which names the user itself",
                "remove it, or use type plain or a scram type",
            )
        return self


class TrustedCertificate(Model):
    """Certificates (PEM) of authorities that the brokers' certificates are checked against."""

    secret_name: SecretName = Field(
        description="Name of a Secret, such as Strimzi's <cluster>-cluster-ca-cert, in the resource's namespace."
    )
    certificate: SecretKey = Field("ca.crt", description="Key inside the Secret.")


class KafkaTls(Model):
    """TLS to the brokers; the names in their certificates are always checked."""

    trusted_certificates: list[TrustedCertificate] = Field(
        default_factory=list,
        max_length=16,
        description="Only these authorities are trusted; without any, those of the system in the image.",
    )


class Kafka(Model):
    """The team's own Kafka."""

    bootstrap_servers: str = Field(
        min_length=3,
        max_length=2048,
        pattern=BOOTSTRAP,
        description="host:port of one or more brokers, separated by commas.",
    )
    tls: KafkaTls | None = Field(None, description="Connect with TLS; {} trusts the authorities of the system.")
    authentication: Authentication | None = Field(None, description="Who the client is; by default nobody.")

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "!has(self.authentication) || self.authentication.type != 'tls' || has(self.tls)",
            "a client shows its certificate over TLS only, but spec.kafka.tls is missing: add it ({} trusts the"
            " authorities of the system)",
            field=".authentication",
        ),
    )

    @model_validator(mode="after")
    def _certificate_needs_tls(self) -> Self:
        login = self.authentication
        if login and login.type is AuthenticationType.TLS and self.tls is None:
            raise InvalidDefinition(
                "spec.kafka.authentication",
                "a client shows its certificate over TLS only, but spec.kafka.tls is missing",
                "add it ({} trusts the authorities of the system)",
            )
        return self


class Acks(StrEnum):
    """Who has to have an event before it counts as published."""

    ALL = "all"


class Compression(StrEnum):
    """How record batches are compressed."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Producer(Model):
    """How a relay writes. It is always an idempotent producer, so that a repeated batch is stored once and in order."""

    acks: Acks = Field(
        Acks.ALL,
        description="Only all: an event that not every replica in sync has could be lost, and idempotence needs it.",
    )
    linger_ms: int = Field(
        0,
        ge=0,
        le=1000,
        description="How long a record batch that is not full waits before it is sent: fewer and larger batches, later events. At most half of batchTimeoutMs.",
    )
    batch_bytes: int = Field(
        BATCH_BYTES,
        ge=1024,
        le=16_777_216,
        description="Largest record batch before compression; a single larger event is sent alone."
        " Not over the topics' max.message.bytes: a batch that Kafka refuses is split and sent again.",
    )
    compression: Compression = Field(Compression.NONE, description="none, gzip, snappy, lz4 or zstd.")
    transactional: bool = Field(
        False,
        description="Write each lane in Kafka transactions of its own: a relay that was replaced can write nothing more,"
        " and consumers that read committed see no event twice after a crash. Costs throughput; needs Kafka 2.5 and"
        " rights on transactional ids and groups.",
    )


def check_linger(path: str, linger_ms: int, timeout_name: str, timeout_ms: int) -> None:
    """Raise InvalidDefinition when batches linger for most of the time in which they are to be acknowledged."""
    if linger_ms * 2 > timeout_ms:
        raise InvalidDefinition(
            path,
            f"{linger_ms} is more than half of {timeout_name} {timeout_ms}, which leaves Kafka too little time to"
            " acknowledge a batch",
            f"lower it to at most {timeout_ms // 2}, or raise {timeout_name} to at least {linger_ms * 2}",
        )


class ProducingKafka(Kafka):
    """The team's own Kafka, and how it is written to."""

    producer: Producer = Field(default_factory=lambda: Producer(), description="How events are written.")
