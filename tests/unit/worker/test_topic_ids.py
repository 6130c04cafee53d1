"""Asking for topic ids in the version that a broker speaks."""

from io import BytesIO
from uuid import UUID

import pytest
from aiokafka.protocol.metadata import MetadataResponse_v5

from marty_msf.worker.broker.topic_ids import TopicIdsRequest, ids

#: The key of the Metadata API.
METADATA = 3
ID = UUID("0b7bb1c2-7d5b-4a4e-9c0c-2f8a5b1d0e11")


@pytest.mark.parametrize(("newest", "spoken"), [(5, 5), (9, 5), (10, 10), (13, 10)])
def test_the_newest_version_that_both_sides_know_is_spoken(newest: int, spoken: int) -> None:
    request = TopicIdsRequest(["orders"]).prepare({METADATA: (0, newest)})

    assert spoken == request.API_VERSION


def test_an_answer_of_version_10_is_understood() -> None:
    name = b"\x07orders"
    partition = bytes(2) + bytes(4) + b"\0\0\0\1" + bytes(4) + b"\2\0\0\0\1" * 2 + b"\1" + b"\0"
    tail = bytes(4) + b"\0"
    known = bytes(2) + name + ID.bytes + b"\0" + b"\2" + partition + tail
    unknown = b"\0\3" + b"\5gone" + bytes(16) + b"\0" + b"\1" + tail
    without = bytes(2) + b"\4old" + bytes(16) + b"\0" + b"\1" + tail
    broker = b"\0\0\0\1" + b"\2h" + b"\0\0\x23\x84" + b"\0" + b"\0"
    frame = bytes(4) + b"\2" + broker + b"\2c" + bytes(4) + b"\4" + known + unknown + without + tail

    request = TopicIdsRequest(["orders", "gone", "old"]).prepare({METADATA: (0, 10)})

    assert ids(request.RESPONSE_TYPE.decode(BytesIO(frame))) == {"orders": ID, "old": None}


def test_a_broker_that_speaks_no_ids_reports_none() -> None:
    answer = MetadataResponse_v5(0, [], "c", 1, [(0, "orders", False, []), (3, "gone", False, [])])

    assert ids(answer) == {"orders": None}


def test_a_request_asks_by_name_and_creates_nothing() -> None:
    request = TopicIdsRequest(["orders"]).prepare({METADATA: (0, 13)})

    assert request.encode() == b"\2" + bytes(16) + b"\7orders" + b"\0" + b"\0\0\0" + b"\0"
