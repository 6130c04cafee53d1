"""What cannot be is refused where it is given, by its name."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.patterns.arguments import data_directory
from marty_msf.patterns.choreography import EventBus
from marty_msf.patterns.outbox import EnhancedOutboxProcessor, create_kafka_message_broker
from marty_msf.patterns.saga import SagaOrchestrator
from marty_msf.patterns.settings import Settings


async def nothing(_: object) -> None: ...


NOTHING: Any = nothing
BROKER = create_kafka_message_broker({"bootstrap_servers": "localhost:9092"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("topic", value) for value in ("a b", "..", "t" * 250, None)),
        ("reads", ["orders", "a b"]),
        *(("remember_hours", value) for value in (0, True, "24", 876_001)),
        *(("concurrency", value) for value in (0, 1001, 1.5)),
        *(("bootstrap_servers", value) for value in ("", " ", 5, "kafka", [], ["kafka:9092", ""])),
        *(("database_url", value) for value in ("", " ", 5, b"postgresql://h/d")),
        *(("data_directory", value) for value in ("", 5, b"/tmp")),
        *(("reads", value) for value in ("orders",)),
        *(("retries", value) for value in (5, {"attempts": 3})),
        ("name", None),
        *(("handler_timeout_seconds", value) for value in (0, -1, float("inf"), float("nan"), "30")),
    ],
)
def test_an_event_bus_refuses_what_cannot_be(path: str, value: Any) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        EventBus(**{"name": "shop", "topic": "order.events", path: value})
    assert refused.value.path == path


@pytest.mark.parametrize("event_type", ["", None, 5, "a\0", "a\udcff"])
def test_a_type_that_no_event_can_have_is_refused(event_type: Any) -> None:
    bus = EventBus("shop", "order.events")
    with pytest.raises(InvalidDefinition, match=r"^event_type: .*: give the event_type of publish"):
        bus.handler(event_type)(NOTHING)
    with pytest.raises(InvalidDefinition, match=r"^event_type: "):
        bus.subscribe(event_type, NOTHING)


@pytest.mark.parametrize("value", [5, b"order-1", "a\udcff"])
async def test_what_no_parked_event_has_is_refused(value: Any) -> None:
    bus = EventBus("shop", "order.events")
    with pytest.raises(InvalidDefinition, match=r"^aggregate_id: .*: give the key that parked\(\) shows, as text"):
        await bus.redrive(value)
    with pytest.raises(InvalidDefinition, match=r"^event_id: .*: give the event_id that parked\(\) shows, as text"):
        await bus.discard(value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("services", value) for value in (["a"], "a=b", 5)),
        ("services[1]", {1: "x"}),
        ("services['a']", {"a": 5}),
        *(("timeout_per_step", value) for value in (0, True, 1.5, 3601, 1_000_000)),
        ("timeout_seconds", 0),
    ],
)
def test_an_orchestrator_refuses_what_cannot_be(path: str, value: Any) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        SagaOrchestrator("orders", **{path.partition("[")[0]: value})
    assert refused.value.path == path


@pytest.mark.parametrize("name", ["Ok", "S 1", "s" * 64, "_a", "1a", "a.b", "ok\n", "", None])
def test_a_handler_is_registered_under_a_name_that_a_step_can_have(name: Any) -> None:
    orchestrator = SagaOrchestrator("orders")
    with pytest.raises(InvalidDefinition, match=r"^step_name: .* is no step's name: use lower-case letters, digits"):
        orchestrator.register_step_handler(name, NOTHING)
    orchestrator.register_step_handler("s" * 63, NOTHING)
    # A compensation may be a name of the service's, which is a path.
    orchestrator.register_compensation_handler("Give-Back", NOTHING)


@pytest.mark.parametrize("made", [partial(EnhancedOutboxProcessor, None, BROKER), partial(SagaOrchestrator, "orders")])
@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        *(("database_url", value, r"is empty: give postgresql://.*, or leave it out") for value in ("", "  ")),
        *(("database_url", value, r"is a \w+, no text: give postgresql://") for value in (5, b"PASSWORD", object())),
        *(("data_directory", value, "is no path: give a Path") for value in ("", 5, b"/tmp")),
    ],
)
def test_where_a_database_is_is_text_and_never_empty(made: Any, path: str, value: Any, problem: str) -> None:
    with pytest.raises(InvalidDefinition, match=f"^{path}: .*{problem}") as refused:
        made(**{path: value})
    assert "PASSWORD" not in str(refused.value)


@pytest.mark.parametrize("path", ["message_broker", "repository", "config"])
@pytest.mark.parametrize("value", [5, {"batch_size": 5}])
def test_a_processor_refuses_what_is_none_of_its_parts(path: str, value: Any) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        EnhancedOutboxProcessor(**{"message_broker": BROKER, path: value})
    assert refused.value.path == path


def test_a_directory_may_be_text() -> None:
    assert data_directory("/var/lib/marty") == data_directory(Path("/var/lib/marty")) == Path("/var/lib/marty")


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_is_no_database_and_not_the_embedded_one(empty: str) -> None:
    assert Settings.from_environment({}).database() is None
    settings = Settings.from_environment({"MARTY_DATABASE_URL": empty})
    with pytest.raises(
        InvalidDefinition, match=r"^MARTY_DATABASE_URL: is set and empty: set it to postgresql://.*unset"
    ):
        settings.database()
