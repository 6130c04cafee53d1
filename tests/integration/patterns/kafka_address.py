"""The least that the processor needs of a message broker: where Kafka is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    servers: str


@dataclass(frozen=True, slots=True)
class Broker:
    connection: Address


def broker(bootstrap: str) -> Broker:
    return Broker(Address(bootstrap))
