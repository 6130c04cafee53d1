"""What is committed for a consumer group, transactions that are still being completed not left out (KIP-447).

aiokafka stops at version 3 of OffsetFetch, whose answer may be from before a transaction that is committed already.
Version 7 here follows the protocol guide of Kafka (kafka.apache.org/protocol, OffsetFetch); brokers have it since 2.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import NoError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields


class _OffsetFetchResponse7(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString()),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString()),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchRequest7(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = _OffsetFetchResponse7
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("group", CompactString()),
        (
            "topics",
            CompactArray(("topic", CompactString()), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetsRequest(Request[_OffsetFetchRequest7]):  # type: ignore[misc]
    """Everything that is committed for one group."""

    API_KEY = 9

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, struct: type[_OffsetFetchRequest7]) -> _OffsetFetchRequest7:
        return struct(self._group, None, True, {})


@dataclass(frozen=True, slots=True)
class Committed:
    """An offset, and the text that was committed with it."""

    offset: int
    text: str


def committed(answer: Any) -> Sequence[Committed]:
    """What the answer holds. Raises the broker's error, of which several mean that it is to be asked again."""
    if (error := for_code(answer.error_code)) is not NoError:
        raise error()
    found = []
    for _, partitions, *_ in answer.topics:
        for _, offset, _, text, code, *_ in partitions:
            if (error := for_code(code)) is not NoError:
                raise error()
            found.append(Committed(offset, text or ""))
    return found
