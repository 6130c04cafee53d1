"""CloudEvents as Kafka headers: what the relay writes is what every reader finds."""

from datetime import datetime

import pytest
from aiokafka.record.default_records import DefaultRecordBatch

from marty_msf.core.cloudevents import Encoder, Envelope, envelope, source, timestamp
from marty_msf.core.records import field
from marty_msf.worker.broker.record_batch import RecordBatch

EVENT_ID = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"


def made(own: str | None = None) -> dict[str, bytes]:
    encoder = Encoder("shop")
    if own is None:
        message = encoder.tail(EVENT_ID, "order_created", "order", field(b"o-1"), b"{}", 1_700_000_000_250_000, 42)
    else:
        message = encoder.unusual_tail(
            EVENT_ID, "order_created", "order", b"o-1", b"o-1", b"{}", 1_700_000_000_250_000, 42, own
        )
    batch = RecordBatch(1_000_000)
    batch.append(message)
    (record,) = DefaultRecordBatch(bytearray(batch._build()))
    assert (record.key, record.value) == (b"o-1", b"{}")
    return dict(record.headers)


def test_both_ways_to_encode_an_event_say_the_same() -> None:
    assert made() == made("{}")


def test_written_attributes_are_read_back() -> None:
    assert envelope(made()) == Envelope(
        id=EVENT_ID,
        type="order_created",
        source="/marty/shop/order",
        subject="o-1",
        time="2023-11-14T22:13:20.250000Z",
        sequence=42,
    )
    assert made()["ce_specversion"] == b"1.0"
    assert made()["content-type"] == b"application/json"


def test_own_headers_are_added_and_may_say_another_content_type() -> None:
    own = made('{"traceparent": "00-ab", "Content-Type": "application/protobuf"}')

    assert own["traceparent"] == b"00-ab"
    assert own["Content-Type"] == b"application/protobuf"
    assert "content-type" not in own


def test_names_that_are_no_uri_are_percent_encoded() -> None:
    assert source("a/b", "ö d") == ("ce_source", b"/marty/a%2Fb/%C3%B6%20d")


def test_the_time_is_rfc_3339_to_the_microsecond() -> None:
    assert timestamp(1_700_000_000_999_999) == b"2023-11-14T22:13:20.999999Z"
    assert datetime.fromisoformat(timestamp(1).decode()).timestamp() == 0.000001


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", "٣".encode(), b"\xff", b"9" * 30])
def test_a_sequence_that_is_no_number_is_none(value: bytes) -> None:
    assert envelope({"ce_martysequence": value}).sequence is None


def test_a_header_without_a_value_counts_as_left_out() -> None:
    received = {"ce_id": b"e-1", "ce_type": None, "ce_time": None, "ce_martysequence": None}

    assert envelope(received) == Envelope("e-1", "", "", "", "", None)


def test_a_foreign_message_has_empty_attributes() -> None:
    assert envelope({"ce_type": b"\xff\xfe", "other": b"x"}) == Envelope("", "\ufffd\ufffd", "", "", "", None)


def test_ids_that_are_no_text_stay_apart() -> None:
    # A saga started by an event is known by them.
    ids = {envelope({"ce_source": b"/s", "ce_id": it}).id for it in (b"\xff", b"\xfe", b"a\0", b"a")}
    assert len(ids) == 4
    assert envelope({"ce_source": b"\xff"}).source != envelope({"ce_source": b"\xfe"}).source
