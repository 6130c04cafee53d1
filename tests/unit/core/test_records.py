"""Kafka's own reader (aiokafka's) reads back what core.records writes."""

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st

from marty_msf.core.records import header, header_start, tail, varint
from marty_msf.worker.broker.record_batch import RecordBatch

CONTENT = st.one_of(st.none(), st.binary(max_size=300))
MESSAGES = st.lists(
    st.tuples(CONTENT, CONTENT, st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=200)), max_size=5)),
    min_size=1,
    max_size=60,
)


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
@given(messages=MESSAGES)
@settings(max_examples=25)
def test_a_batch_reads_back_as_it_was_written(
    compression: str | None, messages: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]
) -> None:
    batch = RecordBatch(10_000_000, compression)
    for message in messages:
        assert batch.append(tail(*message))
    batch._set_producer_state(7, 3, 42)
    made = batch._build()
    read = DefaultRecordBatch(bytearray(made))
    assert read.validate_crc()
    assert (read.producer_id, read.producer_epoch, read.base_sequence) == (7, 3, 42)
    found = [(record.key, record.value, record.headers) for record in read]
    assert found == [(key, value, tuple(headers)) for key, value, headers in messages] or found == messages
    assert len(made) <= batch.size()


def test_a_full_batch_takes_nothing_more_but_its_first_record_always_fits() -> None:
    batch = RecordBatch(1000)
    assert batch.append(b"x" * 5000)
    assert not batch.append(b"x")
    assert batch.record_count() == 1


@pytest.mark.parametrize("number", [0, 1, 63, 64, 8191, 8192, 16_383, 16_384, 2_000_000])
def test_varints_are_zigzag(number: int) -> None:
    read, shift = 0, 0
    for byte in varint(number):
        read |= (byte & 0x7F) << shift
        shift += 7
    assert read == number << 1


def test_a_header_in_parts_is_the_header_as_a_whole() -> None:
    assert header_start("ce_id", 3) + b"abc" == header("ce_id", b"abc")
    assert header_start("ce_id") + varint(3) + b"abc" == header("ce_id", b"abc")
