"""Our way of writing a produce request and of reading its answer is aiokafka's, byte for byte."""

from io import BytesIO

import pytest
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol import produce
from aiokafka.protocol.produce import ProduceRequest as TheirRequest

from marty_msf.worker.broker.produce_request import ProduceRequest

PRODUCE = 0
TOPICS = [("orders", [(0, b"first"), (3, b"x" * 300)]), ("zahlungen-ä", [(1, b"")]), ("none", [])]


@pytest.mark.parametrize("version", range(3, 8))
@pytest.mark.parametrize("transactional_id", [None, "marty-ä"])
def test_it_reads_as_aiokafkas_own(version: int, transactional_id: str | None) -> None:
    versions = {PRODUCE: (version, version)}
    theirs = TheirRequest(transactional_id=transactional_id, required_acks=-1, timeout=4000, topics=TOPICS)
    expected = theirs.prepare(versions)
    ours = ProduceRequest(transactional_id, 4000, TOPICS)
    prepared = ours.prepare(versions)
    assert (PRODUCE, version) == (prepared.API_KEY, prepared.API_VERSION)
    assert ours.required_acks == -1
    header = prepared.build_request_header(7, "cliënt").encode()
    assert header == expected.build_request_header(7, "cliënt").encode()
    # As the connection does it.
    message = header + prepared.encode()
    assert bytes(message) == header + expected.encode()
    assert len(message) == len(header + expected.encode())
    assert b"size" + message == b"size" + header + expected.encode()


@pytest.mark.parametrize("version", range(3, 8))
def test_its_answer_is_read_as_aiokafka_reads_it(version: int) -> None:
    behind = (17,) if version >= 5 else ()
    topics = [
        ("orders", [(0, 0, 41, -1, *behind), (3, 45, -1, 1_700_000_000_000, *behind)]),
        ("zahlungen-ä", [(1, 3, -1, -1, *behind)]),
        ("none", []),
    ]
    answer = getattr(produce, f"ProduceResponse_v{version}")(topics, 250).encode()
    prepared = ProduceRequest(None, 4000, TOPICS).prepare({PRODUCE: (version, version)})
    stream = BytesIO(b"\x00\x00\x00\x2a" + answer)
    assert prepared.parse_response_header(stream).correlation_id == 42
    found = prepared.RESPONSE_TYPE.decode(stream)
    assert found.API_VERSION == 2  # which has the time, and nothing behind it
    assert found.topics == [(topic, [result[:4] for result in results]) for topic, results in topics]


@pytest.mark.parametrize(("lowest", "highest", "chosen"), [(0, 7, 7), (3, 13, 7), (0, 5, 5), (0, 3, 3)])
def test_the_version_is_the_latest_that_both_know(lowest: int, highest: int, chosen: int) -> None:
    assert chosen == ProduceRequest(None, 1, []).prepare({PRODUCE: (lowest, highest)}).API_VERSION


@pytest.mark.parametrize("versions", [{PRODUCE: (0, 2)}, {PRODUCE: (8, 13)}, {}])
def test_a_broker_that_knows_none_of_them_is_told(versions: dict[int, tuple[int, int]]) -> None:
    with pytest.raises(IncompatibleBrokerVersion, match="this client writes 3 to 7"):
        ProduceRequest(None, 1, []).prepare(versions)
