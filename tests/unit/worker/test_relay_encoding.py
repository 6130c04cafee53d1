"""What the relay makes of a row: the quick way and the one for anything say the same."""

from typing import Any

import pytest

from marty_msf.worker.relay.batch import Encoder

PLAIN = '{"key": null, "after": null, "priority": %d, "max_attempts": null}'
PARTITIONS = {"t": 8}


def row(more: str | None, key: str | None = "order-7", own: str | None = None) -> Any:
    event_id = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
    return (42, 1, event_id, "t", "order_created", "order", key, b"{}", own, 1_700_000_000_250_000, more)


@pytest.mark.parametrize("key", ["order-7", None], ids=["ordered", "without an aggregate"])
@pytest.mark.parametrize(
    "more",
    [
        None,
        PLAIN % 0,
        PLAIN % 2,
        '{"key": "order-7", "after": 5, "priority": 1, "max_attempts": 3}',
        '{"key": "own", "after": null, "priority": 1, "max_attempts": null}',
    ],
    ids=["usual", "low", "high", "the aggregate as key", "another key"],
)
@pytest.mark.parametrize(
    "own",
    [None, "{}", '{"traceparent": "00-ä", "tracestate": ""}', '{"Content-Type": "text/plain"}'],
    ids=["no headers", "empty headers", "own headers", "own content-type"],
)
def test_both_ways_to_encode_a_row_say_the_same(more: str | None, key: str | None, own: str | None) -> None:
    encoder = Encoder("shop")
    given = row(more, key, own)
    # The one before it of the same type has no headers: what they share is not mixed up.
    ((place, (_, message)),) = encoder.encode([row(more, key), given], PARTITIONS).items()
    assert (message, place) == encoder.unusual(given, PARTITIONS)
    assert encoder.placed([given], PARTITIONS) == {place: [given]}
