"""A Redis that keeps step results for all processes. Slow or absent it costs a call a moment, then it is left alone for a while."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from marty_msf.core.errors import HandlersUnusable, MartyError

logger = logging.getLogger(__name__)

#: Of one question; a step that is called is seldom slower.
WAIT_SECONDS: Final = 0.25
#: How long it is not asked after it failed.
LEFT_ALONE_SECONDS: Final = 5.0
CONNECTIONS: Final = 16


class RedisCache:
    """See step_cache.Shared. Needs the package redis: the extra `redis`."""

    def __init__(self, url: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        """`url` may give another address later, and may raise MartyError. Raises HandlersUnusable without the package."""
        try:
            from redis import asyncio as redis
        except ImportError:
            raise HandlersUnusable(
                "spec.stepCache.redis: the package redis is missing in this image: install marty-msf[redis] there"
            ) from None
        self._redis = redis
        self._url = url
        self._clock = clock
        self._client: Any = None
        self._connected_to = ""
        self._rest_until = float("-inf")

    async def get(self, key: str) -> tuple[bytes, float] | None:
        """See Shared.get."""
        if self._clock() < self._rest_until:
            return None
        try:
            async with asyncio.timeout(WAIT_SECONDS), (await self._ready()).pipeline(transaction=False) as asked:
                value, left_ms = await asked.get(key).pttl(key).execute()
        except Exception as error:
            self._failed(error)
            return None
        # Between the two it may have gone.
        return (value, left_ms / 1000) if isinstance(value, bytes) and left_ms > 0 else None

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        """See Shared.put."""
        if self._clock() < self._rest_until:
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await (await self._ready()).set(key, value, ex=seconds)
        except Exception as error:
            self._failed(error)

    async def close(self) -> None:
        """See Shared.close."""
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await client.aclose()
            except Exception as error:
                logger.debug("the connections to Redis were not closed: %s", error)

    async def _ready(self) -> Any:
        """The client, another one when the URL has changed."""
        url = self._url()
        if self._client is None or url != self._connected_to:
            await self.close()
            self._client = self._redis.from_url(
                url, max_connections=CONNECTIONS, socket_timeout=WAIT_SECONDS, socket_connect_timeout=WAIT_SECONDS
            )
            self._connected_to = url
        return self._client

    def _failed(self, error: Exception) -> None:
        """Never with the URL, which may hold a password."""
        reason = str(error) if isinstance(error, MartyError) else type(error).__name__
        logger.warning(
            "the shared step cache is left alone for %s s (%s); steps are called", LEFT_ALONE_SECONDS, reason
        )
        self._rest_until = self._clock() + LEFT_ALONE_SECONDS
