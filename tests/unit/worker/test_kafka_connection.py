"""A connection reads its secrets when a client is made, and says which is missing or is not what it should be."""

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest

from marty_msf.core.errors import AuthenticationFailed, BrokerRefused, BrokerUnavailable, MartyError
from marty_msf.core.resources.kafka import Compression, Kafka, Producer
from marty_msf.core.worker_status import ProblemReason
from marty_msf.patterns.kafka import connection_of
from marty_msf.worker.board import reason_of
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.sending import Tuning


def connection(directory: Path, **kafka: Any) -> KafkaConnection:
    return KafkaConnection.of(Kafka.model_validate({"bootstrapServers": "k1:9092,k2:9092", **kafka}), directory)


def login(type_: str = "scram-sha-512", **more: str) -> dict[str, Any]:
    return {"type": type_, "secretRef": {"name": "shop"}, **more}


def write(directory: Path, **keys: str) -> None:
    (directory / "shop").mkdir(exist_ok=True)
    for key, text in keys.items():
        (directory / "shop" / key).write_text(text)


def test_without_security_it_is_plaintext(tmp_path: Path) -> None:
    options = connection(tmp_path).options()
    assert options == {"bootstrap_servers": ["k1:9092", "k2:9092"], "security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize(
    ("type_", "mechanism"),
    [("plain", "PLAIN"), ("scram-sha-256", "SCRAM-SHA-256"), ("scram-sha-512", "SCRAM-SHA-512")],
)
def test_a_login_of_strimzi_is_named_like_its_secret(tmp_path: Path, type_: str, mechanism: str) -> None:
    write(tmp_path, password="open sesame\n")
    options = connection(tmp_path, authentication=login(type_)).options()
    assert options["security_protocol"] == "SASL_PLAINTEXT"
    assert options["sasl_mechanism"] == mechanism
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("shop", "open sesame")


def test_the_user_in_the_secret_comes_before_its_name_and_that_of_the_spec_before_both(tmp_path: Path) -> None:
    write(tmp_path, password="x", username="jane\n")
    assert connection(tmp_path, authentication=login()).options()["sasl_plain_username"] == "jane"
    assert connection(tmp_path, authentication=login(username="joe")).options()["sasl_plain_username"] == "joe"


def test_a_new_client_uses_the_new_password(tmp_path: Path) -> None:
    write(tmp_path, password="old")
    made = connection(tmp_path, authentication=login())
    assert made.options()["sasl_plain_password"] == "old"
    write(tmp_path, password="new")
    assert made.options()["sasl_plain_password"] == "new"


def test_tls_without_authorities_trusts_those_of_the_system(tmp_path: Path) -> None:
    options = connection(tmp_path, tls={}).options()
    context: ssl.SSLContext = options["ssl_context"]
    assert options["security_protocol"] == "SSL"
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


TRUST = {"tls": {"trustedCertificates": [{"secretName": "shop"}]}}
CERTIFIED = {"tls": {}, "authentication": login("tls")}


@pytest.mark.parametrize(
    ("kafka", "keys", "says"),
    [
        ({"authentication": login()}, {}, ["spec.kafka.authentication", "shop/password", "cannot be read"]),
        ({"authentication": login()}, {"password": "\n"}, ["spec.kafka.authentication", "shop/password", "is empty"]),
        (TRUST, {}, ["spec.kafka.tls.trustedCertificates", "shop/ca.crt", "cannot be read"]),
        (TRUST, {"ca.crt": ""}, ["spec.kafka.tls.trustedCertificates", "is empty"]),
        (TRUST, {"ca.crt": "none"}, ["spec.kafka.tls.trustedCertificates", "holds no certificates", "PEM"]),
        (CERTIFIED, {}, ["spec.kafka.authentication", "shop/user.crt", "cannot be used"]),
        (CERTIFIED, {"user.crt": "none", "user.key": "none"}, ["Secret 'shop'", "PEM", "without a password"]),
    ],
    ids=str,
)
def test_what_is_missing_is_named_with_its_remedy(
    tmp_path: Path, kafka: dict[str, Any], keys: dict[str, str], says: list[str]
) -> None:
    write(tmp_path, **keys)
    with pytest.raises(BrokerRefused) as refused:
        connection(tmp_path, **kafka).options()
    for text in says:
        assert text in str(refused.value)


def test_a_resource_tunes_its_producer() -> None:
    producer = Producer.model_validate({"lingerMs": 5, "batchBytes": 2048, "compression": "lz4"})
    assert Tuning.of(producer) == Tuning(linger_ms=5, batch_bytes=2048, compression=Compression.LZ4)
    assert Tuning.of(Producer()) == Tuning()


def test_in_a_pod_the_secret_is_named() -> None:
    made = KafkaConnection.of(Kafka.model_validate({"bootstrapServers": "k:9092", "authentication": login()}))
    with pytest.raises(BrokerRefused, match="key 'password' of Secret 'shop' cannot be read"):
        made.options()


def test_passwords_stand_in_no_text_of_a_connection() -> None:
    made = connection_of(
        {
            "bootstrap_servers": "k:9092",
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": "shop",
            "sasl_plain_password": "very-secret",
        }
    )
    assert made.options()["sasl_plain_password"] == "very-secret"
    assert "very-secret" not in repr(made)


def test_the_clients_debug_log_holds_no_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, password="very-secret")
    connection(tmp_path, authentication=login()).options()
    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        logger = logging.getLogger("aiokafka.conn")
        logger.debug(
            "Request to %s:%d %d: %s", "k", 1, 2, "SaslAuthenticateRequest_v0(payload=b'\\0shop\\0very-secret')"
        )
        logger.debug("Request to %s:%d %d: %s", "k", 1, 2, "MetadataRequest_v5(topics=[])")
    assert "very-secret" not in caplog.text
    assert "MetadataRequest" in caplog.text


@pytest.mark.parametrize("error", [BrokerUnavailable("x"), BrokerRefused("x"), AuthenticationFailed("x")])
def test_whatever_kafka_has_against_us_has_one_reason(error: MartyError) -> None:
    assert reason_of(error) is ProblemReason.BROKER_UNAVAILABLE
