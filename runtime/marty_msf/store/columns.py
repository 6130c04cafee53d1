"""Columns of many rows as parameters of one statement."""

from collections.abc import Iterable


def plain(values: Iterable[object]) -> str:
    """A parameter `$n::text::integer[]`, or of another type whose values are plain words: whole numbers, booleans, names.

    The driver encodes an array element by element and looks at the type of each. The array's own text form is one join, and costs
    the database no more.
    """
    return f"{{{','.join(map(str, values))}}}"
