"""Our way of writing a produce request is aiokafka's, byte for byte, and its requests of other versions are left alone."""

import pytest
from aiokafka.protocol.produce import ProduceRequest

from marty_msf.worker.broker.produce_request import PromptRequest

PRODUCE = 0


@pytest.mark.parametrize("version", range(8))
@pytest.mark.parametrize("transactional_id", [None, "marty-ä"])
def test_it_reads_as_aiokafkas_own(version: int, transactional_id: str | None) -> None:
    topics = [("orders", [(0, b"first"), (3, b"x" * 300)]), ("zahlungen-ä", [(1, b"")]), ("none", [])]
    versions = {PRODUCE: (version, version)}

    def request() -> ProduceRequest:
        return ProduceRequest(transactional_id=transactional_id, required_acks=-1, timeout=4000, topics=topics)

    if transactional_id is not None and version < 3:
        pytest.skip("no transactions in this version")
    prepared = PromptRequest(request()).prepare(versions)
    expected = request().prepare(versions).encode()
    body = prepared.encode()
    assert bytes(body) == expected
    # As the connection does it.
    message = b"header" + body
    assert len(message) == len(expected) + 6
    assert b"size" + message == b"sizeheader" + expected
    assert version == prepared.API_VERSION
