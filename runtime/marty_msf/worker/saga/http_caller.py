"""Steps as HTTP calls: one pooled client per worker, and answers taken for what they are: input from outside."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from marty_msf.core.saga.events import Failed
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES, Outcome, classify
from marty_msf.worker.saga.calls import Request
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.reachability import Reachability

#: Servers close idle connections (some after 5 s); a call on a connection that just closed has an unknown outcome.
KEEP_ALIVE_SECONDS: Final = 4
CONNECT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 64 * 1024
#: Compressed answers are refused: a small one may unpack to gigabytes.
_HEADERS: Final[Mapping[str, str]] = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class HttpCaller:
    """POST http://<service>/<action> with the frozen body; see core.saga.outcome for what the answers mean."""

    def __init__(self, session: aiohttp.ClientSession, reachability: Reachability) -> None:
        self._session = session
        self._reachability = reachability

    async def call(self, request: Request) -> Outcome:
        """See Caller.call."""
        url = f"http://{request.service}/{request.action}"
        headers = {**_HEADERS, "Idempotency-Key": request.idempotency_key}
        connect = min(CONNECT_SECONDS, request.timeout_seconds)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect)
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(request.timeout_seconds),
                self._session.post(
                    url, data=request.body, headers=headers, timeout=timeout, allow_redirects=False
                ) as response,
            ):
                body = await _read(response)
            self._reachability.answered(url)
            spread = _spread()
            return classify(response.status, response.headers, body, url=url, random=spread, now_ms=now_ms())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # The connection was never made, so the service never saw the call.
            sentence = f"no connection to {url}: {_plain(error)}"
            self._reachability.refused(url, _plain(error))
            return _failed(sentence, unknown=False)
        except TimeoutError:
            self._reachability.lost(url)
            return _failed(f"no answer from {url} in {time.monotonic() - began:.3g} s", unknown=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._reachability.lost(url)
            return _failed(f"the call to {url} broke off: {_plain(error)}", unknown=True)


def _failed(error: str, *, unknown: bool) -> Failed:
    return Failed(error, unknown, _spread())


def _spread() -> float:
    return random.random()  # noqa: S311  # spreads waits, guards nothing


@asynccontextmanager
async def session(connections: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A client without cookies, proxies from the environment or unpacking, with up to `connections` at once."""
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEP_ALIVE_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as client:
        yield client


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; None when it is encoded or over the limit, of which no more is read then."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return None
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(_CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > ANSWER_LIMIT_BYTES:
            response.close()
            return None
    return b"".join(parts)


def _plain(error: Exception) -> str:
    """The cause in one line, without the client's own wording around it."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return " ".join((getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).split())[:200]
