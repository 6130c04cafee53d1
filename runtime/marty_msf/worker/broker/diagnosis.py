"""Why no broker could be used. aiokafka logs what each broker said and raises that none answered; so they are asked again.

Only after a failure, with connections of their own. Whoever gives no reason here is simply not there, or is no Kafka: that
is told when no broker gives a better reason.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from marty_msf.core.errors import AuthenticationFailed, BrokerRefused, BrokerUnavailable
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.errors import no_answer
from marty_msf.worker.broker.first_words import FirstWords, first_words

#: For all brokers together, and for one answer.
LIMIT_SECONDS: Final = 4.0
ANSWER_MS: Final = 1500
_NO_MECHANISM: Final = "none"
_PLAINTEXT: Final[Mapping[str, Any]] = {"security_protocol": "PLAINTEXT"}


async def diagnosis(connection: KafkaConnection) -> BrokerUnavailable | None:
    """What the first broker that gives a reason has against this connection, else what is odd; None when none is there."""
    security = connection.security()
    odd: BrokerUnavailable | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(LIMIT_SECONDS):
            for host, port, _ in collect_hosts(connection.servers.split(","), randomize=False):
                try:
                    await _ask(host, port, security, login=True)
                except (KafkaError, OSError, TimeoutError) as error:
                    words = await first_words(host, port, ANSWER_MS / 1000)
                    odd = odd or _no_kafka(connection, f"{host}:{port}", words)
                    if words in (FirstWords.NOBODY, FirstWords.UNKNOWN) or (
                        words is FirstWords.SILENT and not connection.tls
                    ):
                        continue  # whatever else is asked is not answered either
                    if found := await _explained(connection, f"{host}:{port}", host, port, error, security):
                        return found
    return odd


def _no_kafka(connection: KafkaConnection, address: str, words: FirstWords) -> BrokerUnavailable | None:
    """What is odd about a port that does not speak as Kafka does."""
    names = connection.names
    remedy = f"is this the port of another service? check {names.servers}"
    match words:
        case FirstWords.UNKNOWN:
            return no_answer(
                address, "no address is known for that name", f"check {names.servers} and the name service"
            )
        case FirstWords.FOREIGN:
            return BrokerRefused(f"{names.servers}: {address} answers, but not as Kafka: {remedy}")
        case FirstWords.CLOSED:
            closed = "the connection is closed at Kafka's first question"
            return no_answer(address, closed, f"{remedy}, or a proxy whose Kafka is away")
        case FirstWords.SILENT:
            silent = f"it takes the connection and says nothing for {ANSWER_MS / 1000:g} s"
            return no_answer(address, silent, f"does the broker hang, or {remedy}")
    return None


async def _ask(host: str, port: int, security: Mapping[str, Any], *, login: bool) -> Sequence[str]:
    """Connect and ask one question; without a `login` it is which ones there are."""
    conn: AIOKafkaConnection = await create_conn(
        host, port, client_id="marty-diagnosis", request_timeout_ms=ANSWER_MS, **security
    )
    try:
        if login:
            await conn.send(MetadataRequest([]))
            return ()
        answer = await conn.send(SaslHandShakeRequest(_NO_MECHANISM))
        return sorted(answer.enabled_mechanisms or ())
    finally:
        if closed := conn.close():
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(closed), ANSWER_MS / 1000)


async def _explained(
    connection: KafkaConnection, address: str, host: str, port: int, error: BaseException, security: Mapping[str, Any]
) -> BrokerRefused | None:
    names, cause = connection.names, _tls_error(error)
    match error:
        case SaslAuthenticationFailed():
            return AuthenticationFailed(
                f"{names.login}: authentication failed for {connection.user} at Kafka {address}:"
                f" check {connection.credentials}, and that the user exists"
            )
        case UnsupportedSaslMechanismError() | IllegalSaslStateError():
            return await _other_logins(connection, address, host, port, security)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return BrokerRefused(
            f"{names.authorities}: the certificate of Kafka {address} is not trusted"
            f" ({cause.verify_message or cause.reason}): name the authority that issued it, and a host that stands in it"
        )
    if connection.tls and cause and "ALERT" in (cause.reason or ""):
        return AuthenticationFailed(
            f"{names.login}: Kafka {address} refuses {connection.user} ({cause.reason}):"
            f" {_remedy_of_certificate(connection)}"
        )
    if connection.tls and await _speaks(host, port, _PLAINTEXT):
        return BrokerRefused(f"{names.tls}: Kafka {address} speaks no TLS: remove it, or name the port that does")
    if not connection.tls and await _speaks_tls(host, port):
        return BrokerRefused(f"{names.tls}: Kafka {address} speaks TLS only: set it, or name a port without TLS")
    if isinstance(error, KafkaError) and not connection.login:
        return await _other_logins(connection, address, host, port, security)
    return None


def _remedy_of_certificate(connection: KafkaConnection) -> str:
    if connection.tls and connection.tls.certificate:
        return f"check {connection.credentials}: is it issued by an authority that the broker trusts, and still valid?"
    return "the broker wants a certificate of the client: set one (type tls), or name another port"


async def _other_logins(
    connection: KafkaConnection, address: str, host: str, port: int, security: Mapping[str, Any]
) -> BrokerRefused | None:
    """What the listener takes instead."""
    bare = {key: value for key, value in security.items() if not key.startswith("sasl_")}
    bare["security_protocol"] = "SSL" if connection.tls else "PLAINTEXT"
    offered: Sequence[str] = ()
    with suppress(KafkaError, OSError, TimeoutError):
        offered = await _ask(host, port, bare, login=False)
    name, ways = connection.names.login, ", ".join(offered)
    if connection.login and not offered:
        return BrokerRefused(f"{name}: Kafka {address} takes no user and password: remove it, or name a port that does")
    if connection.login:
        return BrokerRefused(
            f"{name}: Kafka {address} does not offer {connection.login.mechanism}: use one of its types ({ways})"
        )
    if offered:
        return BrokerRefused(f"{name}: Kafka {address} wants a login ({ways}): set one, or name a port without")
    return None


async def _speaks(host: str, port: int, security: Mapping[str, Any]) -> bool:
    """Whether Kafka answers its first question in this protocol."""
    with suppress(KafkaError, OSError, TimeoutError, MemoryError):
        await _ask(host, port, security, login=False)
        return True
    return False


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether the port answers to a TLS handshake; nothing is sent over it, so nobody needs to be trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(ANSWER_MS / 1000):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_MS / 1000):
            await writer.wait_closed()
    return True


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error behind a closed connection."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__
    return None
