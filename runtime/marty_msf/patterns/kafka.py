"""How the library is told about Kafka: the keys that Python's Kafka clients use, checked before anything connects."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import BOOTSTRAP
from marty_msf.worker.broker.connection import KafkaConnection, Login, Names, Tls

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
SASL_KEYS: Final = ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
TLS_KEYS: Final = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
#: What `connection_of` knows.
CONNECTION_KEYS: Final = ("bootstrap_servers", "security_protocol", *SASL_KEYS, *TLS_KEYS)
#: For whoever only publishes, through the outbox.
NOWHERE: Final = KafkaConnection("")

_NAMES: Final = Names(
    "bootstrap_servers",
    "security_protocol",
    "ssl_cafile",
    "security_protocol, sasl_… and ssl_…",
    "batch_timeout_ms",
)


def connection_of(settings: Mapping[str, object]) -> KafkaConnection:
    """Raises InvalidDefinition, which names the key and never a password; files are looked at when something connects."""
    refuse_unknown(settings, CONNECTION_KEYS)
    given = {key: value for key, value in settings.items() if value is not None}
    protocol = choice(given, "security_protocol", PROTOCOLS, "PLAINTEXT")
    logs_in, encrypted = protocol.startswith("SASL_"), protocol.endswith("SSL")
    for keys, used, protocols in ((SASL_KEYS, logs_in, PROTOCOLS[2:]), (TLS_KEYS, encrypted, ("SSL", "SASL_SSL"))):
        for key in keys:
            if key in given and not used:
                raise InvalidDefinition(
                    key,
                    f"is given, but security_protocol is {protocol}",
                    f"set security_protocol to {' or '.join(protocols)}, or remove {key}",
                )
    return KafkaConnection(
        _servers(given),
        _tls(given) if encrypted else None,
        _login(given) if logs_in else None,
        _NAMES,
        "sasl_plain_username and sasl_plain_password" if logs_in else "ssl_certfile and ssl_keyfile",
    )


def refuse_unknown(settings: Mapping[str, object], known: Sequence[str]) -> None:
    """Raise InvalidDefinition for a key that nothing would look at."""
    for key in settings:
        if key not in known:
            raise InvalidDefinition(str(key), "is no setting of Kafka here", f"remove it; known are {', '.join(known)}")


def choice(settings: Mapping[str, object], key: str, allowed: Sequence[str], default: str | None = None) -> str:
    """One of a closed set."""
    value = settings.get(key, default)
    if value not in allowed:
        problem = "is missing" if value is None else f"{value!r} is not known"
        raise InvalidDefinition(key, problem, f"use one of {', '.join(allowed)}")
    return str(value)


def _servers(settings: Mapping[str, object]) -> str:
    value = settings.get("bootstrap_servers")
    if value is None:
        raise InvalidDefinition("bootstrap_servers", "is missing", "give host:port of one or more brokers")
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = text.replace(" ", "")
    if not re.fullmatch(BOOTSTRAP, text):
        raise InvalidDefinition("bootstrap_servers", f"{value!r} is no host:port,…", "correct it")
    return text


def _tls(settings: Mapping[str, object]) -> Tls:
    certificate, key = _path(settings, "ssl_certfile"), _path(settings, "ssl_keyfile")
    if key and not certificate:
        raise InvalidDefinition("ssl_keyfile", "is given without a certificate", "set ssl_certfile, or remove it")
    authority = _path(settings, "ssl_cafile")
    return Tls((authority,) if authority else (), certificate, key)


def _login(settings: Mapping[str, object]) -> Login:
    mechanism = choice(settings, "sasl_mechanism", MECHANISMS)
    return Login(mechanism, _text(settings, "sasl_plain_username"), _text(settings, "sasl_plain_password"))


def _text(settings: Mapping[str, object], key: str) -> str:
    value = settings.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidDefinition(key, "is missing or no text", "set it, or use a security_protocol without SASL")
    return value


def _path(settings: Mapping[str, object], key: str) -> Path | None:
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value):
        raise InvalidDefinition(key, f"{value!r} is no path", "name a file in PEM form")
    return Path(value)
