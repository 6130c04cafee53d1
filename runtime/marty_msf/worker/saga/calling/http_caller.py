"""Steps as HTTP calls: one pooled client per worker, and answers taken for what they are: input from outside."""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from marty_msf.core.saga.calling import HttpCall
from marty_msf.core.saga.events import Failed, Misconfigured
from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES, Outcome, classify
from marty_msf.core.saga.url_template import UnfilledTemplate
from marty_msf.core.trace import of_saga
from marty_msf.worker.saga import tracing
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.calling.reachability import Reachability
from marty_msf.worker.saga.calling.secret_files import SecretFiles, SecretUnreadable
from marty_msf.worker.saga.clock import now_ms

#: Servers close idle connections (some after 5 s); a call on a connection that just closed has an unknown outcome.
KEEP_ALIVE_SECONDS: Final = 4
CONNECT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 64 * 1024
#: Compressed answers are refused: a small one may unpack to gigabytes.
_HEADERS: Final[Mapping[str, str]] = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class HttpCaller:
    """Makes the step's request with the frozen body; see core.saga.outcome for what the answers mean."""

    def __init__(self, session: aiohttp.ClientSession, reachability: Reachability, secrets: SecretFiles) -> None:
        self._session = session
        self._reachability = reachability
        self._secrets = secrets

    async def call(self, request: Request) -> Outcome:
        """See Caller.call."""
        call = request.step.call
        if not isinstance(call, HttpCall):
            raise TypeError(f"step {request.step.name!r} is no HTTP call: {call!r}")
        template = call.undo_url if request.undo else call.url
        # What failures are counted by: must not be as many as there are instances.
        place = template.source if template else f"http://{request.service}/{request.action}"
        try:
            url = template.url(request.context, request.step.data) if template else place
            headers = self._headers(call, request)
            trust: ssl.SSLContext | bool = self._secrets.trust(call.ca) if call.ca else True
        except UnfilledTemplate as error:
            return Misconfigured(str(error))
        except SecretUnreadable as error:
            # A Secret that is being made or rotated is there soon; the call was not made.
            return _failed(f"the call to {url} was not made: {error}", unknown=False)
        return await self._answer(call.method, url, place, headers, trust, request)

    def _headers(self, call: HttpCall, request: Request) -> dict[str, str]:
        headers = {
            **call.headers,
            **_HEADERS,
            "Idempotency-Key": request.idempotency_key,
            "traceparent": request.traceparent or of_saga(request.saga_id),
        }
        for it in call.secret_headers:
            headers[it.header] = self._secrets.header(it.secret)
        return headers

    async def _answer(
        self,
        method: str,
        url: str,
        place: str,
        headers: Mapping[str, str],
        trust: ssl.SSLContext | bool,
        request: Request,
    ) -> Outcome:
        connect = min(CONNECT_SECONDS, request.timeout_seconds)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect)
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(request.timeout_seconds),
                self._session.request(
                    method,
                    URL(url, encoded=True),
                    data=None if method == "GET" else request.body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    ssl=trust,
                ) as response,
            ):
                body = await _read(response)
            tracing.note({"url.full": url, "http.response.status_code": response.status})
            self._reachability.answered(place)
            return classify(response.status, response.headers, body, url=url, random=_spread(), now_ms=now_ms())
        except aiohttp.ClientConnectorCertificateError as error:
            # Told like a refused connection, and tried again: certificates are rotated under way.
            sentence = f"the certificate is not trusted: {error.certificate_error}"
            self._reachability.refused(place, sentence)
            return _failed(f"no connection to {url}: {sentence}", unknown=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # The connection was never made, so the service never saw the call.
            self._reachability.refused(place, _plain(error))
            return _failed(f"no connection to {url}: {_plain(error)}", unknown=False)
        except TimeoutError:
            self._reachability.lost(place)
            return _failed(f"no answer from {url} in {time.monotonic() - began:.3g} s", unknown=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._reachability.lost(place)
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
