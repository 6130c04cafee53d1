"""A broker of the test's own that speaks TLS, takes logins and checks rights, with Secrets as a pod would find them."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from marty_msf.core.resources.kafka import ProducingKafka
from marty_msf.worker.broker.connection import KafkaConnection
from tests.support.broker import Broker

#: Who may read and write every topic, and who may nothing.
USER, GUEST = "shop", "guest"
PASSWORD = 'open "sesame" ö'
#: The subject of the client's certificate; the Secret has its name.
CERTIFIED = "certified"
#: Of Secrets beside those of the users.
AUTHORITY, FOREIGN_AUTHORITY = "cluster-ca-cert", "foreign-ca-cert"
WRONG_PASSWORD, FOREIGN_CERTIFICATE = "wrong-password", "foreign-certificate"

LISTENERS = {
    "TLS": "SSL",
    "MTLS": "SSL",
    "LOGIN": "SASL_PLAINTEXT",
    "LOGINTLS": "SASL_SSL",
}
SETTINGS = """
ssl.keystore.type=PEM
ssl.keystore.location={directory}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/ca.crt
listener.name.mtls.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
listener.name.login.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.logintls.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
"""
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass(frozen=True, slots=True)
class SecureBroker:
    """A started broker and its files."""

    broker: Broker
    directory: Path

    @property
    def secrets(self) -> Path:
        """What SECRETS_DIRECTORY is in a pod."""
        return self.directory / "secrets"

    @property
    def admin(self) -> str:
        """Where everything is allowed: for the test's own tools."""
        return self.broker.bootstrap

    def connection(self, listener: str, **kafka: Any) -> KafkaConnection:
        """As a worker makes it from its resource."""
        return KafkaConnection.of(self.spec(listener, **kafka), self.secrets)

    def spec(self, listener: str, **kafka: Any) -> ProducingKafka:
        """The resource's part."""
        return ProducingKafka.model_validate({"bootstrapServers": self.broker.at(listener), **kafka})


def login(type_: str, secret: str = USER, **more: str) -> dict[str, Any]:
    """spec.kafka.authentication."""
    return {"authentication": {"type": type_, "secretRef": {"name": secret}, **more}}


def trust(secret: str = AUTHORITY) -> dict[str, Any]:
    """spec.kafka.tls."""
    return {"tls": {"trustedCertificates": [{"secretName": secret}]}}


def allow(
    admin: str,
    user: str,
    name: str,
    operation: AclOperation,
    kind: ResourceType = ResourceType.TOPIC,
    pattern: ResourcePatternType = ResourcePatternType.LITERAL,
) -> None:
    """Grant a right, and wait until it holds."""
    client = AdminClient({"bootstrap.servers": admin})
    principal = f"User:{user}"
    binding = AclBinding(kind, name, pattern, principal, "*", operation, AclPermissionType.ALLOW)
    client.create_acls([binding])[binding].result(timeout=30)
    wanted = AclBindingFilter(kind, name, pattern, principal, "*", operation, AclPermissionType.ALLOW)
    while not client.describe_acls(wanted).result(timeout=30):
        pass


@asynccontextmanager
async def secure_broker(directory: Path) -> AsyncIterator[SecureBroker]:
    """Started, with its users; ended with the test."""
    await asyncio.to_thread(_make_certificates, directory)
    made = Broker(directory, LISTENERS, _settings(directory))
    try:
        await made.start()
        await asyncio.to_thread(_make_users, made.bootstrap)
        _make_secrets(directory, directory / "secrets")
        yield SecureBroker(made, directory)
    finally:
        await made.kill()


def _settings(directory: Path) -> str:
    password = PASSWORD.replace('"', '\\\\"')
    users = " ".join(f'user_{user}="{password}"' for user in (USER, GUEST))
    # Properties files are read as Latin-1 unless escaped.
    plain = f"{PLAIN} {users};".encode("ascii", "backslashreplace").decode().replace("\\xf6", "\\u00f6")
    lines = [SETTINGS.format(directory=directory)]
    for listener in ("login", "logintls"):
        lines.append(f"listener.name.{listener}.plain.sasl.jaas.config={plain}")
        lines += [f"listener.name.{listener}.scram-sha-{bits}.sasl.jaas.config={SCRAM}" for bits in (256, 512)]
    return "\n".join(lines) + "\n"


def _make_users(admin: str) -> None:
    client = AdminClient({"bootstrap.servers": admin})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        info = ScramCredentialInfo(mechanism, 4096)
        changes: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(user, info, PASSWORD.encode()) for user in (USER, GUEST)
        ]
        for future in client.alter_user_scram_credentials(changes).values():
            future.result(timeout=30)
    for user in (USER, f"CN={CERTIFIED}"):
        allow(admin, user, "*", AclOperation.ALL)


def _make_secrets(directory: Path, secrets: Path) -> None:
    """USER and CERTIFIED are as Strimzi makes them for a KafkaUser; GUEST names its user by a key."""
    values = {
        AUTHORITY: {"ca.crt": (directory / "ca.crt").read_text()},
        FOREIGN_AUTHORITY: {"ca.crt": (directory / "foreign-ca.crt").read_text()},
        USER: {"password": PASSWORD},
        "guest-login": {"password": PASSWORD, "username": GUEST},
        WRONG_PASSWORD: {"password": "not-this", "username": USER},
        CERTIFIED: {f"user.{end}": (directory / f"{CERTIFIED}.{end}").read_text() for end in ("crt", "key")},
        FOREIGN_CERTIFICATE: {f"user.{end}": (directory / f"foreign.{end}").read_text() for end in ("crt", "key")},
    }
    for name, keys in values.items():
        (secrets / name).mkdir(parents=True)
        for key, text in keys.items():
            (secrets / name / key).write_text(text)


def _make_certificates(directory: Path) -> None:
    """Two authorities, of which the broker trusts one; a certificate of the broker and two of clients."""
    (directory / "openssl.cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n")
    for authority in ("ca", "foreign-ca"):
        _make_key(directory, authority)
        extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        subject = ["-subj", f"/CN={authority}", "-days", "2", *extensions]
        request = ["req", "-x509", "-new", "-config", "openssl.cnf", "-key", f"{authority}.key"]
        _openssl(directory, *request, *subject, "-out", f"{authority}.crt")
    _make_leaf(directory, "broker", "ca", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    _make_leaf(directory, CERTIFIED, "ca", "extendedKeyUsage=clientAuth")
    _make_leaf(directory, "foreign", "foreign-ca", "extendedKeyUsage=clientAuth")
    texts = [(directory / f"broker.{end}").read_text() for end in ("key", "crt")]
    (directory / "broker.pem").write_text("".join(texts))


def _make_leaf(directory: Path, name: str, authority: str, extension: str) -> None:
    _make_key(directory, name)
    (directory / f"{name}.ext").write_text(extension + "\n")
    request = ["req", "-new", "-config", "openssl.cnf", "-key", f"{name}.key", "-subj", f"/CN={name}"]
    _openssl(directory, *request, "-out", f"{name}.csr")
    signed = ["x509", "-req", "-in", f"{name}.csr", "-days", "2", "-extfile", f"{name}.ext", "-CAcreateserial"]
    _openssl(directory, *signed, "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-out", f"{name}.crt")


def _make_key(directory: Path, name: str) -> None:
    _openssl(directory, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
