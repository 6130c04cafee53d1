"""The metrics every worker has: its process, its version and its problems."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.board import Board


class _Problems(Collector):
    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily("marty_worker_problem", "1 while the worker has this problem.", labels=["reason"])
        current = {problem.reason for problem in self._board.current()}
        for reason in ProblemReason:
            family.add_metric([reason.value], reason in current)
        yield family


def new_registry(board: Board) -> CollectorRegistry:
    """A registry of the process's own; the roles add theirs."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Problems(board))
    return registry
