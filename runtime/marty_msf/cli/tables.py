"""What people read: aligned tables, ages, colours on a terminal only."""

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

import click
import orjson

_GAP: Final = "   "
#: (seconds, unit), the largest first; two units below ten of the larger one, as kubectl does.
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_COLOURS: Final = {
    "Completed": "green",
    "Parked": "red",
    "Failed": "red",
    "Compensating": "yellow",
    "Compensated": "yellow",
    "Cancelled": "yellow",
}


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell. On a terminal the last one is cut so that a row stays a line."""
    cells = [list(map(one_line, row)) for row in rows]
    widths = [max(len(row[at]) for row in [headers, *cells]) for at in range(len(headers) - 1)]
    room = shutil.get_terminal_size().columns - sum(widths) - len(_GAP) * len(widths)
    lines = []
    for row in [list(headers), *cells]:
        if sys.stdout.isatty() and len(row[-1]) > room > 1:
            row[-1] = f"{row[-1][: room - 1]}…"
        parts = [painted(cell, cell.ljust(width)) for cell, width in zip(row, [*widths, 0], strict=True)]
        lines.append(_GAP.join(parts).rstrip())
    return "\n".join(lines)


def painted(state: str, text: str) -> str:
    """The text in the colour of a state, where colours are seen; the text itself for everything else."""
    colour = _COLOURS.get(state)
    if colour is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour)


def age(then: datetime, now: datetime | None = None) -> str:
    """How long ago: `38s`, `4m`, `2h5m`, `3d4h`."""
    seconds = max(int(((now or datetime.now(UTC)) - then).total_seconds()), 0)
    for (size, unit), (smaller, small_unit) in pairwise(_UNITS):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            detail = rest // smaller
            return f"{whole}{unit}{detail}{small_unit}" if whole < 10 and detail else f"{whole}{unit}"
    return f"{seconds}s"


def duration(ms: int) -> str:
    """`9 ms`, `1.2 s`, `30 s`, `9 min 40 s`."""
    if ms < 1000:
        return f"{ms} ms"
    if ms < 10_000:
        return f"{ms / 1000:.1f} s"
    if ms < 120_000:
        return f"{ms // 1000} s"
    return f"{ms // 60_000} min {ms // 1000 % 60} s"


def json_text(value: Any) -> str:
    """For `-o json`."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def one_line(text: str) -> str:
    """One line without control characters: an error may quote anything."""
    return "".join(character if character.isprintable() else " " for character in text)
