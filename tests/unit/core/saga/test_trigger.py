import pytest

from marty_msf.core.cloudevents import Envelope
from marty_msf.core.errors import InvalidDefinition, PoisonEvent
from marty_msf.core.saga.trigger import Trigger, Wanted, compiled, wanted
from tests.unit.core.saga.definitions import spec

EVENT = Envelope("e1", "order_created", "/marty/shop/order", "o7", "", 1)


def triggers(**fields: object) -> list[Trigger]:
    kafka = {"topic": "order.events", "eventType": "order_created", **fields}
    return list(compiled(spec({"name": "a"}, triggers=[{"kafka": kafka}], kafka={"bootstrapServers": "k:9092"})))


def test_the_whole_payload_is_the_context_by_default_and_the_events_id_the_key() -> None:
    assert wanted(triggers(), "order.events", EVENT, b'{"order_id": "o7"}') == [
        Wanted("/marty/shop/order/e1", {"order_id": "o7"})
    ]


def test_mapping_and_business_key_are_computed_from_the_payload() -> None:
    found = wanted(
        triggers(context={"id": "event.order_id", "missing": "event.nothing"}, businessKey="'order-' + event.order_id"),
        "order.events",
        EVENT,
        b'{"order_id": "o7"}',
    )
    assert found == [Wanted("order-o7", {"id": "o7", "missing": None})]


@pytest.mark.parametrize("key", ["event.number", "event.text"])
def test_a_key_may_be_text_or_an_integer(key: str) -> None:
    found = wanted(triggers(businessKey=key), "order.events", EVENT, b'{"number": 7, "text": "7"}')
    assert found[0].business_key == "7"


@pytest.mark.parametrize(("topic", "event_type"), [("other", "order_created"), ("order.events", "order_deleted")])
def test_other_events_start_nothing_even_when_they_are_broken(topic: str, event_type: str) -> None:
    assert wanted(triggers(), topic, Envelope("e", event_type, "", "", "", None), b"{") == ()


@pytest.mark.parametrize("payload", [None, b"", b"{", b"[]", b"7", b"\xff"])
def test_a_payload_that_is_no_object_is_poison(payload: bytes | None) -> None:
    with pytest.raises(PoisonEvent, match="payload"):
        wanted(triggers(), "order.events", EVENT, payload)


@pytest.mark.parametrize("key", ["event.nothing", "event.flag", "event.list", "event.half", "event.text - 1"])
def test_a_key_that_is_no_name_is_poison(key: str) -> None:
    with pytest.raises(PoisonEvent, match="businessKey"):
        wanted(
            triggers(businessKey=key), "order.events", EVENT, b'{"flag": true, "list": [1], "half": 0.5, "text": "x"}'
        )


def test_without_an_id_and_without_a_key_an_event_is_poison() -> None:
    with pytest.raises(PoisonEvent, match="ce_id"):
        wanted(triggers(), "order.events", Envelope("", "order_created", "", "", "", None), b"{}")


def test_an_expression_that_does_not_compile_names_its_path() -> None:
    with pytest.raises(InvalidDefinition, match=r"spec\.triggers\[0\]\.kafka\.context\.id"):
        triggers(context={"id": "event."})
