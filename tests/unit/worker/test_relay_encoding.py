"""What the relay makes of a row: the quick way and the one for anything say the same."""

from typing import Any

import pytest

from marty_msf.worker.relay.batch import Encoder

PLAIN = '{"key": null, "after": null, "priority": %d, "max_attempts": null}'
PARTITIONS = {"t": 8}


def row(more: str | None, key: str | None = "order-7") -> Any:
    event_id = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
    return (42, 1, event_id, "t", "order_created", "order", key, b"{}", None, 1_700_000_000_250_000, more)


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
def test_both_ways_to_encode_a_row_say_the_same(more: str | None, key: str | None) -> None:
    encoder = Encoder("shop")
    ((place, (message,)),) = encoder.encode([row(more, key)], PARTITIONS).items()
    assert (message, place) == encoder.unusual(row(more, key), PARTITIONS)
    assert encoder.placed([row(more, key)], PARTITIONS) == {place: [row(more, key)]}
