import math

from marty_msf.core.outbox.batch_size import LATE, PROMPT_SECONDS, BatchSize


def test_full_batches_that_come_back_fast_grow_to_four_times_the_size_at_most() -> None:
    size = BatchSize(500, 5000, adapts=True)
    for _ in range(20):
        size.acknowledged(size.now, PROMPT_SECONDS / 2)
    assert size.now == 2000


def test_no_batch_is_larger_than_what_is_read_at_once() -> None:
    size = BatchSize(500, 600, adapts=True)
    for _ in range(20):
        size.acknowledged(size.now, 0)
    assert size.now == 600


def test_late_batches_shrink_to_a_quarter_at_most() -> None:
    size = BatchSize(500, 5000, adapts=True)
    for _ in range(20):
        size.acknowledged(10, LATE * PROMPT_SECONDS * 2)
    assert size.now == 125


def test_batches_that_are_not_full_tell_nothing_about_larger_ones() -> None:
    size = BatchSize(500, 5000, adapts=True)
    size.acknowledged(499, 0)
    assert size.now == 500


def test_beside_what_is_urgent_no_batch_is_larger_than_twice_the_size() -> None:
    """Naive: a backlog's large batches are all in front of an event that shall overtake them."""
    size = BatchSize(500, 5000, adapts=True)
    for _ in range(20):
        size.acknowledged(size.now, 0)
    assert size.beside(urgent=True) == 1000
    assert size.beside(urgent=False) == 2000


def test_small_batches_are_not_made_larger_by_what_is_urgent() -> None:
    size = BatchSize(500, 5000, adapts=True)
    size.acknowledged(500, LATE * PROMPT_SECONDS * 2)
    assert size.beside(urgent=True) == 250


def test_without_optimization_the_size_stays() -> None:
    size = BatchSize(500, 5000, adapts=False)
    size.acknowledged(500, 0)
    size.acknowledged(500, 60)
    assert size.now == 500


def test_where_the_time_does_not_matter_full_batches_grow_and_none_shrink() -> None:
    """In transactions a batch costs by their number: smaller batches would only make more of them."""
    size = BatchSize(500, 5000, adapts=True, prompt_seconds=math.inf)
    size.acknowledged(10, 60)
    assert size.now == 500
    for _ in range(20):
        size.acknowledged(size.now, 60)
    assert size.beside(urgent=True) == 2000
