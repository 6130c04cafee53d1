"""Whose turn it is when events of several priorities wait: weighted shares, so that nothing waits for ever. Pure.

Smooth weighted round robin: each turn every waiting class gains its weight, the richest is chosen and pays the sum of
the weights. Over any run of turns each class gets its share, spread evenly. The oldest events of all are a class of
their own with the lowest weight, whatever their priority: that is how waiting makes an event more urgent.
"""

from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

Class = TypeVar("Class")


class Turns(Generic[Class]):
    """Remembers what each class is owed."""

    def __init__(self, weights: Mapping[Class, int]) -> None:
        self._weights = dict(weights)
        self._owed = dict.fromkeys(self._weights, 0)

    def next(self, waiting: Collection[Class]) -> Class:
        """The class whose turn it is, one of those that wait (at least one)."""
        for class_ in waiting:
            self._owed[class_] += self._weights[class_]
        chosen = max(waiting, key=lambda class_: self._owed[class_])
        self._owed[chosen] -= sum(self._weights[class_] for class_ in waiting)
        return chosen
