"""Operators of a test's own, each behind a proxy of the API server and for one namespace."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.api_proxy import ApiProxy
from tests.support.processes import Process, free_port, running

#: Nobody connects to it here.
URL = "postgresql://marty:secret@postgres.example:5432/orders"


@dataclass(frozen=True, slots=True)
class Operator:
    """How to start operators that reach the API server through `proxy` and serve one namespace."""

    proxy: ApiProxy
    directory: Path
    namespace: str

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Process]:
        environment = {
            "KUBECONFIG": str(self.directory / "kubeconfig"),
            "NO_PROXY": "*",
            "MARTY_NAMESPACE": self.namespace,
            "MARTY_WATCH_NAMESPACES": self.namespace,
            "MARTY_RUNTIME_IMAGE": "registry.example/marty-runtime:1",
            "MARTY_HTTP_HOST": "127.0.0.1",
            "MARTY_HEALTH_PORT": str(free_port()),
            "MARTY_METRICS_PORT": str(free_port()),
        }
        async with running(["-m", "marty_operator"], self.directory / "operator.log", environment) as process:
            yield process
