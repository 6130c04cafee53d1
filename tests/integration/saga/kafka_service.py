"""A service that is called over Kafka, with a client that is not ours: it reads commands in a thread and replies."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition


@dataclass(frozen=True, slots=True)
class Command:
    """A command as the service sees it."""

    partition: int
    key: bytes
    body: Mapping[str, Any]
    value: bytes
    headers: Mapping[str, str]

    @property
    def action(self) -> str:
        return self.headers["ce_type"]

    @property
    def idempotency_key(self) -> str:
        return self.headers["idempotency-key"]


_AWAY = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)

#: Outcome and value.
Answer: TypeAlias = tuple[str, Any]
#: What a service replies to a command: nothing, once, or several times.
Handler: TypeAlias = Callable[[Command], Sequence[Answer]]


class KafkaService:
    """Keeps every command; `handler` decides what is replied."""

    def __init__(self, bootstrap: str, topic: str, handler: Handler) -> None:
        self.commands: list[Command] = []
        self._bootstrap = bootstrap
        self._topic = topic
        self._handler = handler
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "log_level": 0})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def keys(self, action: str) -> list[str]:
        """Idempotency keys of the commands for an action, in their order."""
        return [it.idempotency_key for it in list(self.commands) if it.action == action]

    def reply(self, command: Command, outcome: str, value: Any = None, **headers: str | None) -> None:
        """Answer a command, now or again; a header of None is left out."""
        sent = {"correlation-id": command.headers["correlation-id"], "marty-outcome": outcome}
        self.send(
            command.headers["reply-topic"], {**sent, **{k.replace("_", "-"): v for k, v in headers.items()}}, value
        )

    def send(self, topic: str, headers: Mapping[str, str | None], value: Any = None) -> None:
        """Any message at all; bytes are sent as they are."""
        payload = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        own: list[tuple[str, str | bytes | None]] = [(name, text) for name, text in headers.items() if text is not None]
        self._producer.produce(topic, payload, headers=own)
        assert self._producer.flush(20) == 0

    def __enter__(self) -> "KafkaService":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._bootstrap, "group.id": self._topic, "fetch.wait.max.ms": 50, "log_level": 0}
        )
        try:
            partitions = consumer.list_topics(self._topic, timeout=30).topics[self._topic].partitions
            consumer.assign([TopicPartition(self._topic, partition, 0) for partition in partitions])
            while not self._stop.is_set():
                for record in consumer.consume(100, timeout=0.02):
                    if (error := record.error()) is not None:
                        if error.retriable() or error.code() in _AWAY:
                            continue
                        raise KafkaException(error)
                    found: Any = record.headers() or []
                    headers = {name: value.decode() for name, value in found}
                    value = record.value() or b""
                    command = Command(record.partition() or 0, record.key() or b"", json.loads(value), value, headers)
                    self.commands.append(command)
                    for outcome, answer in self._handler(command):
                        self.reply(command, outcome, answer)
        finally:
            consumer.close()


@contextmanager
def serving(bootstrap: str, topic: str, handler: Handler) -> Iterator[KafkaService]:
    with KafkaService(bootstrap, topic, handler) as service:
        yield service


def obliging(command: Command) -> Sequence[Answer]:
    """Everything succeeds; the reservation has an id."""
    return [("succeeded", {"reservation": "r-1"} if command.action == "reserve" else None)]
