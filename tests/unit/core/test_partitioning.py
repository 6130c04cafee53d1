"""The key's partition is the one that every other client computes."""

import pytest
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.partitioning import Partitioner, murmur2


@given(st.binary(max_size=70))
def test_the_hash_is_kafkas_own(key: bytes) -> None:
    assert murmur2(key) == reference(key) & 0x7FFFFFFF


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"abc", 479470107),
    ],
)
def test_values_of_the_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0x7FFFFFFF


def test_forgotten_keys_keep_their_partition() -> None:
    partitioner = Partitioner(remembered=2)

    first = [partitioner.partition(b"%d" % number, 7) for number in range(10)]
    assert [partitioner.partition(b"%d" % number, 7) for number in range(10)] == first
