"""Asks worker pods how they are: `GET /status` over the pod's own address, with the resource's bearer token."""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from pydantic import ValidationError

from marty_msf.core.worker_status import WorkerStatus
from marty_operator.observation import Pod, Worker
from marty_operator.plan.workload import PORT

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 2.0
#: An answer is used this long when later calls fail: one slow answer of a busy worker is no news.
MEMORY_SECONDS: Final = 8.0
#: A report is a few KB; anything larger does not come from our worker.
LIMIT_BYTES: Final = 256 * 1024
CALLS_AT_ONCE: Final = 32


class TokenRefused(Exception):
    """A worker does not take the token: it was changed, and the pod still has the old one or we do."""


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    report: WorkerStatus


class Workers:
    """Remembers the last answer of each pod address for a few seconds."""

    def __init__(self, session: aiohttp.ClientSession, now: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._now = now
        self._answers: dict[tuple[str, str], _Answer] = {}
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)

    async def ask(self, pods: Sequence[Pod], token: str) -> list[Worker]:
        """One worker per pod, in order. Never raises: a pod that does not answer has no report."""
        self._forget_old()
        reports = await asyncio.gather(*(self._report(pod, token) for pod in pods))
        return [Worker(pod, report) for pod, report in zip(pods, reports, strict=True)]

    async def _report(self, pod: Pod, token: str) -> WorkerStatus | None:
        key = (pod.namespace + "/" + pod.name, pod.ip)
        if not pod.ip or not token:
            return None
        try:
            async with self._calls:
                report = await self._get(pod, token)
        except (TimeoutError, OSError, aiohttp.ClientError, ValidationError, TokenRefused) as error:
            logger.debug("pod %s: no report: %s %s", key[0], type(error).__name__, error)
            remembered = self._answers.get(key)
            return remembered.report if remembered and self._now() - remembered.at < MEMORY_SECONDS else None
        if report.resource != f"{pod.namespace}/{pod.resource}":
            return None  # the address went to another pod in between
        self._answers[key] = _Answer(self._now(), report)
        return report

    async def _get(self, pod: Pod, token: str) -> WorkerStatus:
        host = f"[{pod.ip}]" if ipaddress.ip_address(pod.ip).version == 6 else pod.ip
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        url = f"http://{host}:{PORT}/status"
        async with self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            if response.status in (401, 403):
                raise TokenRefused(f"HTTP {response.status}")
            response.raise_for_status()
            body = await response.content.read(LIMIT_BYTES)
            while not response.content.at_eof() and len(body) < LIMIT_BYTES:
                body += await response.content.read(LIMIT_BYTES - len(body))
        return WorkerStatus.model_validate_json(body)

    def _forget_old(self) -> None:
        oldest = self._now() - MEMORY_SECONDS
        for key in [key for key, answer in self._answers.items() if answer.at < oldest]:
            del self._answers[key]
