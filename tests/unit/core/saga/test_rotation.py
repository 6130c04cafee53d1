from uuid import UUID

import pytest

from marty_msf.core.saga.rotation import LEAST_FREED_BYTES, MOST_KEPT, Partition, Step, Use, decide, worth_a_look

NOW = UUID(int=1 << 100)
BIG = 10 * LEAST_FREED_BYTES


def partition(behind: UUID | None = NOW, size_bytes: int = BIG) -> Partition:
    return Partition(1, "marty.saga_journal_20260131", behind, size_bytes)


@pytest.mark.parametrize(
    ("it", "worth"),
    [
        (partition(UUID(int=NOW.int - 1)), True),
        (partition(NOW), True),
        (partition(UUID(int=NOW.int + 1)), False),
        (partition(None), True),
        (partition(None, 100), False),
    ],
)
def test_only_what_nobody_starts_instances_in_is_looked_at_and_the_rest_once_it_is_large(
    it: Partition, worth: bool
) -> None:
    assert worth_a_look(it, NOW) is worth


@pytest.mark.parametrize(
    ("it", "use", "step"),
    [
        (partition(), Use(0, 0), Step.DROP),
        (partition(size_bytes=0), Use(0, 0), Step.DROP),
        (partition(), Use(1, 1000), Step.ROTATE),
        (partition(), Use(MOST_KEPT, 1000), Step.ROTATE),
        (partition(), Use(MOST_KEPT + 1, 1000), Step.LEAVE),
        (partition(size_bytes=LEAST_FREED_BYTES), Use(1, 1000), Step.LEAVE),
        (partition(), Use(10, BIG - LEAST_FREED_BYTES), Step.LEAVE),
        (partition(), Use(10, BIG // 2), Step.ROTATE),
        (partition(None), Use(0, 0), Step.ROTATE),
        (partition(None), Use(MOST_KEPT + 1, 0), Step.LEAVE),
    ],
)
def test_the_step_follows_from_what_is_still_needed(it: Partition, use: Use, step: Step) -> None:
    assert decide(it, use) is step


def test_a_partition_that_was_emptied_is_left_until_all_of_it_is_gone() -> None:
    use = Use(10, 3 * LEAST_FREED_BYTES)

    assert decide(partition(), use) is Step.ROTATE
    assert decide(partition(size_bytes=use.bytes + 100_000), use) is Step.LEAVE
