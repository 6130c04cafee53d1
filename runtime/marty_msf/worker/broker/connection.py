"""How Kafka is reached: brokers, TLS and login as one value, which every client of ours is made from.

Certificates and passwords are read when a client is made, so that a new connection uses what a rotated Secret holds now.
"""

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from marty_msf.core.errors import BrokerRefused
from marty_msf.core.resources.kafka import (
    CERTIFICATE_KEY,
    PASSWORD_KEY,
    PRIVATE_KEY_KEY,
    USERNAME_KEY,
    Authentication,
    AuthenticationType,
    Kafka,
)
from marty_msf.core.worker_config import SECRETS_DIRECTORY

_MECHANISMS: Final = MappingProxyType(
    {
        AuthenticationType.PLAIN: "PLAIN",
        AuthenticationType.SCRAM_SHA_256: "SCRAM-SHA-256",
        AuthenticationType.SCRAM_SHA_512: "SCRAM-SHA-512",
    }
)


@dataclass(frozen=True, slots=True)
class Names:
    """What the user calls the parts of a connection, for errors."""

    servers: str = "spec.kafka.bootstrapServers"
    tls: str = "spec.kafka.tls"
    authorities: str = "spec.kafka.tls.trustedCertificates"
    login: str = "spec.kafka.authentication"
    #: Of acknowledgements.
    deadline: str = "spec.batchTimeoutMs"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM form; without authorities those of the system are trusted."""

    authorities: Sequence[Path] = ()
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password, or the files that hold them; a user's file may be missing, then `user` is the name."""

    mechanism: str
    user: str
    password: str | Path = field(repr=False)
    user_file: Path | None = None


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """`credentials` is what the user would look at when the login fails."""

    #: `host:port,…`
    servers: str
    tls: Tls | None = None
    login: Login | None = None
    names: Names = Names()
    credentials: str = ""

    @classmethod
    def of(cls, kafka: Kafka, directory: Path = Path(SECRETS_DIRECTORY)) -> Self:
        """As a resource says; `directory` holds the Secrets that it names as `<Secret>/<key>`."""
        login, tls = kafka.authentication, None
        shows = login is not None and login.type is AuthenticationType.TLS
        own = directory / login.secret_ref.name if login else directory
        if kafka.tls is not None:
            tls = Tls(
                tuple(directory / it.secret_name / it.certificate for it in kafka.tls.trusted_certificates),
                own / CERTIFICATE_KEY if shows else None,
                own / PRIVATE_KEY_KEY if shows else None,
            )
        return cls(
            kafka.bootstrap_servers,
            tls,
            _login(login, own) if login and not shows else None,
            credentials=f"Secret {login.secret_ref.name!r}" if login else "",
        )

    @property
    def protocol(self) -> str:
        """Kafka's name of it."""
        if self.login:
            return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"
        return "SSL" if self.tls else "PLAINTEXT"

    @property
    def user(self) -> str:
        """Who logs in, for errors."""
        if self.login:
            return f"user {_user(self.login)!r} ({self.login.mechanism})"
        return "the client's certificate" if self.tls and self.tls.certificate else "a client without a login"

    def options(self) -> dict[str, Any]:
        """For every aiokafka client. Reads the files; raises BrokerRefused when one is missing or is not what it should be."""
        options: dict[str, Any] = {"bootstrap_servers": self.servers.split(","), **self.security()}
        return options

    def security(self) -> dict[str, Any]:
        """The part of `options` that a single connection takes as well."""
        made: dict[str, Any] = {"security_protocol": self.protocol}
        if self.tls:
            made["ssl_context"] = self._context(self.tls)
        if self.login:
            _CLIENT_LOG.addFilter(_hide_logins)
            made |= {
                "sasl_mechanism": self.login.mechanism,
                "sasl_plain_username": _user(self.login),
                "sasl_plain_password": self._password(self.login),
            }
        return made

    def _context(self, tls: Tls) -> ssl.SSLContext:
        texts = [self._read(path, self.names.authorities) for path in tls.authorities]
        try:
            context = ssl.create_default_context(cadata="\n".join(texts) if texts else None)
        except (ssl.SSLError, ValueError) as error:
            files = ", ".join(_name(path) for path in tls.authorities)
            raise BrokerRefused(
                f"{self.names.authorities}: {files} holds no certificates ({error}): put them there in PEM form"
            ) from None
        if tls.certificate:
            try:
                # Without a password of its own an encrypted key would ask the terminal for one.
                context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
            except OSError as error:  # ssl.SSLError is one
                raise BrokerRefused(
                    f"{self.names.login}: the certificate in {_name(tls.certificate)} and its key cannot be used"
                    f" ({error.strerror or error}): put both into {self.credentials or 'the files'} in PEM form,"
                    " the key without a password"
                ) from None
        return context

    def _password(self, login: Login) -> str:
        if isinstance(login.password, str):
            return login.password
        password = self._read(login.password, self.names.login).rstrip("\r\n")
        if not password:
            raise BrokerRefused(f"{self.names.login}: {_name(login.password)} is empty: put the password there")
        return password

    @staticmethod
    def _read(path: Path, field_name: str) -> str:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise BrokerRefused(f"{field_name}: {_name(path)} cannot be read ({reason}): put it there") from None
        if not text.strip():
            raise BrokerRefused(f"{field_name}: {_name(path)} is empty: fill it")
        return text


def _login(login: Authentication, own: Path) -> Login:
    """Strimzi's Secret of a user is named after the user and holds no other name."""
    if login.username is not None:
        return Login(_MECHANISMS[login.type], login.username, own / PASSWORD_KEY)
    return Login(_MECHANISMS[login.type], login.secret_ref.name, own / PASSWORD_KEY, own / USERNAME_KEY)


def _user(login: Login) -> str:
    if login.user_file is None:
        return login.user
    try:
        return login.user_file.read_text("utf-8").rstrip("\r\n") or login.user
    except (OSError, UnicodeDecodeError):
        return login.user


def _name(path: Path) -> str:
    """In a pod the key and the Secret, elsewhere the file."""
    if path.is_relative_to(SECRETS_DIRECTORY):
        return f"key {path.name!r} of Secret {path.parent.name!r}"
    return str(path)


#: At its level DEBUG aiokafka logs every request with its bytes, and so passwords.
_CLIENT_LOG: Final = logging.getLogger("aiokafka.conn")


def _hide_logins(record: logging.LogRecord) -> bool:
    return not (record.levelno <= logging.DEBUG and "SaslAuthenticate" in record.getMessage())
