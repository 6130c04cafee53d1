"""The keys of create_kafka_message_broker: each does something, and a value that would not be kept is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kafka import Compression
from marty_msf.patterns.choreography.bus import EventBus
from marty_msf.patterns.outbox.broker import KafkaMessageBroker, create_kafka_message_broker
from marty_msf.worker.broker.connection import Login, Tls
from marty_msf.worker.broker.sending import Tuning

SERVERS = {"bootstrap_servers": "localhost:9092"}
LOGIN = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_plain_username": "shop",
    "sasl_plain_password": "very-secret",
}


def broker(**settings: Any) -> KafkaMessageBroker:
    return create_kafka_message_broker({**SERVERS, **settings})


def test_the_three_dictionaries_of_the_seed_are_taken_as_they_are() -> None:
    first = create_kafka_message_broker(
        {"bootstrap_servers": "localhost:9092", "client_id": "order-service", "enable_idempotence": True}
    )
    pooled = create_kafka_message_broker(
        {
            "bootstrap_servers": "kafka:9092",
            "connections_max_idle_ms": 540000,
            "max_in_flight_requests_per_connection": 5,
            "batch_size": 16384,
            "linger_ms": 100,
        }
    )
    checked = create_kafka_message_broker(
        {"bootstrap_servers": "localhost:9092", "security_protocol": "PLAINTEXT", "acks": "all", "retries": 3}
    )

    assert (first.client_id, first.tuning) == ("order-service", Tuning())
    assert pooled.tuning == Tuning(linger_ms=100, batch_bytes=16384, connections_max_idle_ms=540_000)
    assert (checked.connection.servers, checked.connection.protocol) == ("localhost:9092", "PLAINTEXT")


def test_several_servers_are_text_or_a_list() -> None:
    assert broker(bootstrap_servers="a:1, b:2").connection.servers == "a:1,b:2"
    assert broker(bootstrap_servers=["a:1", "b:2"]).connection.servers == "a:1,b:2"


@pytest.mark.parametrize("compression", [*Compression])
def test_every_compression_is_known(compression: Compression) -> None:
    assert broker(compression_type=compression.value).tuning.compression is compression


def test_a_value_of_none_is_as_good_as_none_given() -> None:
    assert broker(compression_type=None, sasl_mechanism=None, linger_ms=None) == broker()


def test_a_login_over_tls() -> None:
    made = broker(**LOGIN, ssl_cafile="/ca.pem", ssl_certfile="/me.pem", ssl_keyfile="/me.key").connection
    assert made.protocol == "SASL_SSL"
    assert made.tls == Tls((Path("/ca.pem"),), Path("/me.pem"), Path("/me.key"))
    assert made.login == Login("SCRAM-SHA-512", "shop", "very-secret")
    assert "very-secret" not in repr(made)


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ({"bootstrap_server": "k:9092"}, "bootstrap_server", "known are bootstrap_servers, security_protocol"),
        ({"bootstrap_servers": None}, "bootstrap_servers", "is missing"),
        ({"bootstrap_servers": "localhost"}, "bootstrap_servers", "'localhost' is no host:port"),
        ({"enable_idempotence": False}, "enable_idempotence", "set it to True"),
        ({"acks": 1}, "acks", 'set it to "all"'),
        ({"acks": "0"}, "acks", "can lose events"),
        ({"retries": 0}, "retries", "whole number from 1"),
        ({"max_in_flight_requests_per_connection": 6}, "max_in_flight_requests_per_connection", "from 1 to 5"),
        ({"max_in_flight_requests_per_connection": 0}, "max_in_flight_requests_per_connection", "from 1 to 5"),
        ({"batch_size": 0}, "batch_size", "from 1024"),
        ({"linger_ms": -1}, "linger_ms", "from 0 to 1000"),
        ({"linger_ms": True}, "linger_ms", "from 0 to 1000"),
        ({"linger_ms": "5"}, "linger_ms", "from 0 to 1000"),
        ({"connections_max_idle_ms": 1}, "connections_max_idle_ms", "from 1000"),
        ({"compression_type": "brotli"}, "compression_type", "use one of none, gzip, snappy, lz4, zstd"),
        ({"client_id": ""}, "client_id", "1 to 249"),
        ({"client_id": "\ud800"}, "client_id", "1 to 249 printable"),
        ({"security_protocol": "TLS"}, "security_protocol", "use one of PLAINTEXT, SSL"),
        ({"sasl_mechanism": "PLAIN"}, "sasl_mechanism", "set security_protocol to SASL_PLAINTEXT or SASL_SSL"),
        ({"ssl_cafile": "/ca.pem"}, "ssl_cafile", "set security_protocol to SSL or SASL_SSL"),
        ({**LOGIN, "sasl_mechanism": "GSSAPI"}, "sasl_mechanism", "use one of PLAIN, SCRAM-SHA-256"),
        ({**LOGIN, "sasl_mechanism": None}, "sasl_mechanism", "is missing"),
        ({**LOGIN, "sasl_plain_password": ""}, "sasl_plain_password", "is missing"),
        ({**LOGIN, "sasl_plain_username": None}, "sasl_plain_username", "is missing"),
        ({"security_protocol": "SSL", "ssl_keyfile": "/me.key"}, "ssl_keyfile", "set ssl_certfile"),
        ({"security_protocol": "SSL", "ssl_cafile": 5}, "ssl_cafile", "is no path"),
    ],
    ids=str,
)
def test_what_would_not_be_kept_is_refused_by_name(settings: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        broker(**settings)
    assert refused.value.path == key
    assert says in str(refused.value)
    assert "very-secret" not in str(refused.value)


def test_an_event_bus_takes_the_security_of_kafka_by_the_same_keys() -> None:
    EventBus("service", "orders", kafka_security=LOGIN)
    with pytest.raises(InvalidDefinition, match="sasl_mecanism"):
        EventBus("service", "orders", kafka_security={"sasl_mecanism": "PLAIN"})


@pytest.mark.parametrize("settings", [None, ["bootstrap_servers"], "kafka:9092"])
def test_what_is_no_mapping_is_refused(settings: Any) -> None:
    with pytest.raises(InvalidDefinition, match=r"^settings: are a .* give a mapping"):
        create_kafka_message_broker(settings)
