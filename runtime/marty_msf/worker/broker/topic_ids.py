"""The ids of topics (KIP-516): a topic that was deleted and made anew under its name has another one.

aiokafka stops at version 5 of Metadata, which knows no ids. Version 10 here follows the protocol guide of Kafka
(kafka.apache.org/protocol, Metadata) and goes over aiokafka's connections, which negotiate the version.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final
from uuid import UUID

from aiokafka.errors import NoError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

#: What brokers say that keep no ids, and what a request says that asks by name.
_NO_ID: Final = UUID(int=0)


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka ships no types
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _MetadataResponse10(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest10(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _MetadataResponse10
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicIdsRequest(Request[MetadataRequest_v5 | _MetadataRequest10]):  # type: ignore[misc]
    """Asks one broker about topics by name; a broker before Kafka 2.8 answers without ids."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
        """In the version that the connection negotiated."""
        if request_struct_class is _MetadataRequest10:
            return _MetadataRequest10([(_NO_ID, topic, {}) for topic in self._topics], False, False, False, {})
        return MetadataRequest_v5(self._topics, False)


def ids(answer: Any) -> Mapping[str, UUID | None]:
    """The id of each topic that the broker knows; None when it reports no ids."""
    found: dict[str, UUID | None] = {}
    for topic in answer.to_object()["topics"]:
        if for_code(topic["error_code"]) is NoError:
            found[topic["topic"]] = _known(topic.get("topic_id", _NO_ID))
    return found


def _known(topic_id: UUID) -> UUID | None:
    return None if topic_id == _NO_ID else topic_id
