"""Cells and tables of the page docs/benchmarks.md."""

from collections.abc import Sequence

from bench.rows import Results, Row, middle, values


def columns_of(lines: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown, aligned for people who read it as text; the first line is its head."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [text[0], rule, *text[1:]]


def spread(rows: Sequence[Row], name: str, metric: str) -> str:
    """The median of the rounds and its extremes; empty when it was not measured."""
    found = sorted(values(rows, name, metric).values())
    if (median := middle(rows, name, metric)) is None:
        return ""
    return f"{median:,.0f} ({found[0]:,.0f}–{found[-1]:,.0f})" if len(found) > 1 else f"{median:,.0f}"


def pair(rows: Sequence[Row], name: str, one: str, other: str) -> str:
    """Two medians."""
    first, second = middle(rows, name, one), middle(rows, name, other)
    return "" if first is None and second is None else f"{number(first, 1)} / {number(second, 1)}"


def number(value: float | None, digits: int) -> str:
    """Empty when it was not measured."""
    return "" if value is None else f"{value:,.{digits}f}"


def where(results: Results, rounds: int) -> str:
    """How much was measured, on what and when."""
    machine = results.machine
    return (
        f"{rounds} {'short ' if results.quick else ''}round{'' if rounds == 1 else 's'}; {machine['cpus']} processors with a"
        f" load of {machine['load_before']} by others before it began, Python {machine['python']}, {results.measured_at}."
    )


def by_process(rows: Sequence[Row], name: str, metric: str, processes: Sequence[str], digits: int) -> str:
    """The medians of `metric` with the name of each process behind it; those that were not measured, or are 0, are left out."""
    found = [(process, middle(rows, name, f"{metric} {process}")) for process in processes]
    return ", ".join(f"{process} {number(used, digits)}" for process, used in found if used)
