"""The reference of all metrics, read from the objects that serve them."""

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry

from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.projection.metrics import ProjectionMetrics
from marty_msf.worker.relay.metrics import RelayMetrics
from marty_msf.worker.saga.metrics import SagaMetrics
from marty_operator import metrics as operator_metrics

_HEAD: Final = """\
# Metrics

<!-- Generated from the metrics themselves by `make generate`; edit them instead. -->

Workers and operator serve them on port 8080 at `/metrics`. What they say of and how to ask for it: [observe](../how-to/observe.md).
A histogram has the series `…_bucket`, `…_count` and `…_sum`; a counter ends in `_total`.
"""


def reference_of_metrics() -> str:
    """The page."""
    registries: dict[str, Any] = {name: CollectorRegistry() for name in ("Saga", "OutboxRelay", "Projection")}
    SagaMetrics(registries["Saga"])
    RelayMetrics(registries["OutboxRelay"])
    ProjectionMetrics(registries["Projection"])
    parts = [(f"{kind} workers", _collectors(registry)) for kind, registry in registries.items()]
    parts.append(("All workers", [it for it in _collectors(new_registry(Board())) if not _is_process(it)]))
    parts.append(("Operator", [it for it in vars(operator_metrics).values() if hasattr(it, "_labelnames")]))
    return _HEAD + "".join(_section(title, collectors) for title, collectors in parts)


def _collectors(registry: CollectorRegistry) -> list[Any]:
    return list(registry._collector_to_names)


def _is_process(collector: Any) -> bool:
    """Prometheus' own metrics of the process."""
    return type(collector).__name__ == "ProcessCollector"


def _section(title: str, collectors: list[Any]) -> str:
    rows = "".join(sorted(row for collector in collectors for row in _rows(collector)))
    return f"\n## {title}\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}"


def _rows(collector: Any) -> Iterator[str]:
    for family in collector.collect():
        labels: Any = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown = ", ".join(f"`{label}`" for label in labels)
        yield f"| `{name}` | {family.type} | {shown} | {family.documentation} |\n"
