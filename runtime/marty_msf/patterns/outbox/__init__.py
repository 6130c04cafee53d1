"""Events that are published if and only if the business change commits; see docs/how-to/outbox-library.md."""

from marty_msf.core.errors import InvalidEvent, OutsideTransaction, PayloadTooLarge
from marty_msf.core.outgoing import EventPriority
from marty_msf.patterns.outbox.broker import BrokerHealth, KafkaMessageBroker, create_kafka_message_broker
from marty_msf.patterns.outbox.config import OutboxConfig
from marty_msf.patterns.outbox.inbox import Inbox
from marty_msf.patterns.outbox.processor import EnhancedOutboxProcessor
from marty_msf.patterns.outbox.repository import EnhancedOutboxRepository
from marty_msf.patterns.outbox.status import OpenWriter, OutboxMetrics

__all__ = [
    "BrokerHealth",
    "EnhancedOutboxProcessor",
    "EnhancedOutboxRepository",
    "EventPriority",
    "Inbox",
    "InvalidEvent",
    "KafkaMessageBroker",
    "OpenWriter",
    "OutboxConfig",
    "OutboxMetrics",
    "OutsideTransaction",
    "PayloadTooLarge",
    "create_kafka_message_broker",
]
