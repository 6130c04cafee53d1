"""What cannot be is refused where it is given, by its name."""

from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.patterns.choreography import EventBus
from marty_msf.patterns.outbox import EnhancedOutboxProcessor, create_kafka_message_broker


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("topic", value) for value in ("a b", "..", "t" * 250, None)),
        ("reads", ["orders", "a b"]),
        *(("remember_hours", value) for value in (0, True, "24", 876_001)),
        *(("concurrency", value) for value in (0, 1001, 1.5)),
        *(("handler_timeout_seconds", value) for value in (0, -1, float("inf"), float("nan"), "30")),
    ],
)
def test_an_event_bus_refuses_what_cannot_be(path: str, value: Any) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        EventBus("shop", **{"topic": "order.events", path: value})
    assert refused.value.path == path


@pytest.mark.parametrize("path", ["message_broker", "repository", "config"])
@pytest.mark.parametrize("value", [5, {"batch_size": 5}])
def test_a_processor_refuses_what_is_none_of_its_parts(path: str, value: Any) -> None:
    broker = create_kafka_message_broker({"bootstrap_servers": "localhost:9092"})
    with pytest.raises(InvalidDefinition) as refused:
        EnhancedOutboxProcessor(**{"message_broker": broker, path: value})
    assert refused.value.path == path
