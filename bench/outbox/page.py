"""The outbox's part of docs/benchmarks.md."""

from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Final

from bench.cells import by_process, columns_of, number, pair, spread, where
from bench.rows import Results, Row, middle, ratio, values

#: In the order of the table: what each contender is.
CONTENDERS: Final[Mapping[str, tuple[str, str]]] = {
    "marty": ("Marty", "one worker process with the defaults of an OutboxRelay"),
    "debezium tuned": (
        "Debezium 3.6.3, tuned",
        "Postgres connector and event router in Kafka Connect 4.1.0, 1 GB: larger batches and queue, poll every 10 ms",
    ),
    "debezium default": ("Debezium, default", "the same as it comes"),
    "debezium lowest latency": ("Debezium, lowest latency", "tuned, poll every 1 ms, no linger"),
    "pgq": ("PgQ 3.5", "its queue, and a consumer of 60 lines that sends whole batches; ticks every 2 ms when idle"),
    "skip locked": (
        "SKIP LOCKED",
        "the relay most teams write first: claim 500 rows, send, delete; a tenth of the events",
    ),
    "no outbox": ("no outbox", "the application's own row alone"),
}
PROCESSES: Final = ("relay", "connect", "postgres", "kafka")

_HEAD: Final = """## Outbox
Events of 400 bytes of JSON, 10,000 aggregates, one topic of 8 partitions. *Drain*: a backlog, from its first 5 % until the last event is
in Kafka. *Live*: an application inserts at a fixed rate (1,000/s one event a transaction; 5,000/s five, in one statement where the
outbox has one for that); from the insert, the commit included, until the broker has appended the event. *Writer*: 8 clients,
transactions of one row of the application's own and one event, with no relay at work.
"""

_HOW: Final = """
How to read it:
- Everybody has a fresh database and topic and is alone on the machine; a warm-up of a quarter of the backlog comes first, and
  an application has inserted at its rate for a while before it is measured.
- CPU is user and system time of each process over the measured part, divided by its events: live, the application's own
  inserts are part of `postgres`.
- Counted in Kafka by a client that is not ours after each run: every event once, and in a drain the order of each aggregate.
"""


def section(results: Results) -> list[str]:
    """As lines of Markdown."""
    rows = results.rows
    return [
        _HEAD,
        where(results, len(values(rows, "marty", "drain"))),
        "",
        *table(rows),
        "",
        *_alone(rows),
        "",
        *[f"- **{title}**: {what}." for title, what in CONTENDERS.values()],
        _HOW,
        "```",
        *results.goals,
        "```",
        "",
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """One line per contender."""
    columns: Sequence[tuple[str, Callable[[str], str]]] = (
        ("", lambda name: CONTENDERS[name][0]),
        ("drain, events/s", lambda name: spread(rows, name, "drain")),
        ("Marty does", lambda name: _times(rows, name)),
        ("CPU an event in a drain, µs", lambda name: by_process(rows, name, "drain cpu", PROCESSES, 1)),
        ("live 1,000/s p50 / p99, ms", lambda name: pair(rows, name, "live 1000 p50", "live 1000 p99")),
        ("live 5,000/s p50 / p99, ms", lambda name: pair(rows, name, "live 5000 p50", "live 5000 p99")),
        ("CPU an event at 5,000/s, µs", lambda name: number(middle(rows, name, "live 5000 cpu"), 0)),
        ("writer, transactions/s", lambda name: spread(rows, name, "writer")),
        ("WAL a transaction, B", lambda name: number(middle(rows, name, "writer wal"), 0)),
    )
    return columns_of([[title for title, _ in columns], *[[cell(name) for _, cell in columns] for name in CONTENDERS]])


def _times(rows: Sequence[Row], name: str) -> str:
    times = ratio(rows, "drain", "marty", name)
    return "" if times is None or name == "marty" else f"{times:.1f}x"


def _alone(rows: Sequence[Row]) -> list[str]:
    """What only we were measured at."""
    figures = {row.metric: middle(rows, "marty", row.metric) for row in rows if row.contender == "marty"}
    urgent = (
        "High events among a backlog of low ones, one aggregate of which Kafka refuses: p50 {urgent p50:.0f} ms, p99 {urgent p99:.0f} ms"
        " (most {urgent max:.0f} ms) while {urgent drain:,.0f} events/s are drained."
    )
    opened = (
        "A writer left open at 5,000 events/s: p99 {open writer before p99:.1f} ms before, {open writer during p99:.1f} ms meanwhile,"
        " {open writer after p99:.1f} ms after it; its own event is in Kafka {open writer own event:.0f} ms after its commit."
    )
    return [text.format(**figures) for text in (urgent, opened) if _names(text) <= figures.keys()]


def _names(text: str) -> set[str]:
    """The names of a format."""
    return {name for _, name, _, _ in Formatter().parse(text) if name}
