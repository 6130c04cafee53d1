"""Which positions are lost, what is said about them, and when they are looked up again."""

from uuid import UUID

import pytest

from marty_msf.store.positions import Stored
from marty_msf.worker.kafka_loss import judge

OLD, NEW = UUID(int=1), UUID(int=2)
ORDERS = ("orders", 3)


def stored(offset: int, topic_id: UUID | None = None) -> Stored:
    return Stored(offset, None, topic_id)


@pytest.mark.parametrize(
    ("position", "now", "says"),
    [
        (stored(5, OLD), OLD, None),
        (stored(5), OLD, None),
        (stored(5, OLD), None, None),
        (stored(5), None, None),
        (stored(5, OLD), NEW, "the topic was made anew"),
        (stored(11, OLD), NEW, "the topic was made anew"),
        (stored(11), NEW, "the topic was made anew"),
        (stored(11, OLD), OLD, "lost the newest events"),
        (stored(1, OLD), OLD, "retention removed"),
        (stored(1), None, "retention removed"),
    ],
)
def test_a_position_is_lost_when_topic_or_offset_is_gone(position: Stored, now: UUID | None, says: str | None) -> None:
    lost = judge("projection:shop/orders", ORDERS, position, now, earliest=2, head=10)

    if says is None:
        assert lost is None
    else:
        assert lost is not None
        assert says in str(lost.error)


def test_the_remedy_names_exactly_the_rows() -> None:
    anew = judge("projection:shop/orders", ORDERS, stored(5, OLD), NEW, 0, 10)
    gone = judge("projection:shop/orders", ORDERS, stored(1, OLD), OLD, 2, 10)

    assert anew is not None
    assert str(anew.error).endswith(
        "UPDATE marty.kafka_position SET next_offset = 0, topic_id = NULL WHERE scope = 'projection:shop/orders'"
        f" AND topic = 'orders' AND topic_id = '{OLD}'"
    )
    assert gone is not None
    assert str(gone.error).endswith(
        "UPDATE marty.kafka_position SET next_offset = 2 WHERE scope = 'projection:shop/orders'"
        " AND topic = 'orders' AND partition = 3"
    )


@pytest.mark.parametrize(
    ("row", "now", "mended"),
    [
        (stored(5, OLD), NEW, False),
        (stored(0, OLD), NEW, False),
        (stored(5, OLD), None, True),
        (stored(5, OLD), OLD, True),
        (stored(0, None), NEW, True),
        (stored(0, NEW), NEW, True),
        (None, NEW, True),
    ],
)
def test_a_lost_topic_is_looked_up_again_when_the_id_in_the_row_changes(
    row: Stored | None, now: UUID | None, mended: bool
) -> None:
    lost = judge("s", ORDERS, stored(5, OLD), NEW, 0, 10)

    assert lost is not None
    assert lost.mended(row, now) is mended


@pytest.mark.parametrize(
    ("row", "now", "mended"),
    [
        (stored(1, OLD), OLD, False),
        (stored(1, OLD), None, False),
        (stored(2, OLD), OLD, True),
        (stored(1, OLD), NEW, True),
        (None, OLD, True),
    ],
)
def test_a_lost_offset_is_looked_up_again_when_it_changes_or_the_topic_does(
    row: Stored | None, now: UUID | None, mended: bool
) -> None:
    lost = judge("s", ORDERS, stored(1, OLD), OLD, 2, 10)

    assert lost is not None
    assert lost.mended(row, now) is mended
