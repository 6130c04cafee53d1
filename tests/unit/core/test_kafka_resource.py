"""What a resource may say about Kafka: logins, TLS and how a relay writes; bad combinations name path and remedy."""

from typing import Any

import pytest
from pydantic import ValidationError

from marty_msf.core.crd.structural import structural
from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kafka import Acks, Kafka, Producer, ProducingKafka

SERVERS = {"bootstrapServers": "kafka.shop:9092"}
SECRET = {"name": "shop-user"}


def kafka(**more: Any) -> Kafka:
    return Kafka.model_validate({**SERVERS, **more})


def test_by_default_nothing_is_encrypted_and_nobody_logs_in() -> None:
    assert (kafka().tls, kafka().authentication) == (None, None)


@pytest.mark.parametrize("type_", ["plain", "scram-sha-256", "scram-sha-512"])
def test_a_login_needs_no_tls(type_: str) -> None:
    login = kafka(authentication={"type": type_, "secretRef": SECRET, "username": "shop"}).authentication
    assert login is not None
    assert (login.type, login.secret_ref.name, login.username) == (type_, "shop-user", "shop")


def test_an_empty_tls_is_tls() -> None:
    assert kafka(tls={}).tls is not None


def test_certificates_are_found_where_strimzi_puts_them() -> None:
    tls = kafka(tls={"trustedCertificates": [{"secretName": "main-cluster-ca-cert"}]}).tls
    assert tls is not None
    assert [it.certificate for it in tls.trusted_certificates] == ["ca.crt"]


def test_a_certificate_of_the_client_needs_tls() -> None:
    with pytest.raises(InvalidDefinition) as refused:
        kafka(authentication={"type": "tls", "secretRef": SECRET})
    assert refused.value.path == "spec.kafka.authentication"
    assert "add it" in refused.value.remedy


def test_a_certificate_has_no_user_name_beside_it() -> None:
    with pytest.raises(InvalidDefinition) as refused:
        kafka(tls={}, authentication={"type": "tls", "secretRef": SECRET, "username": "shop"})
    assert refused.value.path == "spec.kafka.authentication.username"
    assert refused.value.remedy.startswith("remove it")


@pytest.mark.parametrize(
    "more",
    [
        {"authentication": {"type": "plain"}},
        {"authentication": {"type": "oauth", "secretRef": SECRET}},
        {"authentication": {"secretRef": SECRET}},
        {"authentication": {"type": "plain", "secretRef": SECRET, "password": "x"}},
        {"authentication": {"type": "plain", "secretRef": {"name": "../shop"}}},
        {"tls": {"trustedCertificates": [{"certificate": "ca.crt"}]}},
        {"tls": {"trustedCertificates": [{"secretName": "ca", "certificate": "../ca.crt"}]}},
        {"tls": {"insecure": True}},
    ],
    ids=str,
)
def test_what_is_no_login_and_no_tls_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kafka(**more)


@pytest.mark.parametrize(
    "producer",
    [
        {"acks": "1"},
        {"lingerMs": -1},
        {"lingerMs": 1001},
        {"batchBytes": 1023},
        {"compression": "brotli"},
        {"retries": 3},
    ],
    ids=str,
)
def test_what_a_relay_cannot_do_is_refused(producer: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProducingKafka.model_validate({**SERVERS, "producer": producer})


def test_only_a_relay_says_how_it_writes() -> None:
    assert ProducingKafka.model_validate(SERVERS).producer == Producer()
    with pytest.raises(ValidationError):
        kafka(producer={})


def test_a_set_of_one_value_is_an_enumeration_in_the_schema() -> None:
    acks = structural(Producer, "spec.kafka.producer")["properties"]["acks"]
    assert (acks["enum"], acks["default"]) == ([Acks.ALL.value], "all")
