"""What a bad resource is."""

from dataclasses import dataclass

from tests.contract.resources import Resource, Spoil


@dataclass(frozen=True, slots=True)
class Bad:
    """A spoiled resource and what the API server must say of it."""

    good: Resource
    spoil: Spoil
    path: str
    says: str
