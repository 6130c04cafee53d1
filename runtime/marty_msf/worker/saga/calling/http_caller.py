"""Steps as HTTP calls: one pooled client per worker, and answers taken for what they are: input from outside."""

import random
import ssl
from collections.abc import Mapping
from typing import Final

from marty_msf.core.saga.calling import HttpCall
from marty_msf.core.saga.events import Failed, Misconfigured
from marty_msf.core.saga.outcome import Outcome, classify
from marty_msf.core.saga.url_template import UnfilledTemplate
from marty_msf.core.trace import of_saga
from marty_msf.worker.saga import tracing
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.calling.http_client import BrokenOff, HttpClient, NotConnected
from marty_msf.worker.saga.calling.reachability import Reachability
from marty_msf.worker.saga.calling.secret_files import SecretFiles, SecretUnreadable
from marty_msf.worker.saga.clock import now_ms

#: Compressed answers are refused: a small one may unpack to gigabytes.
_HEADERS: Final[Mapping[str, str]] = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class HttpCaller:
    """Makes the step's request with the frozen body; see core.saga.outcome for what the answers mean."""

    def __init__(self, client: HttpClient, reachability: Reachability, secrets: SecretFiles) -> None:
        self._client = client
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
        body = None if method == "GET" else request.body
        try:
            answer = await self._client.request(
                method, url, headers, body, seconds=request.timeout_seconds, trust=trust
            )
        except NotConnected as error:
            # The service never saw the call. A certificate that is not trusted is tried again, too: they are rotated.
            self._reachability.refused(place, str(error))
            return _failed(f"no connection to {url}: {error}", unknown=False)
        except TimeoutError:
            self._reachability.lost(place)
            return _failed(f"no answer from {url} in {request.timeout_seconds:.3g} s", unknown=True)
        except (BrokenOff, OSError, ValueError) as error:
            self._reachability.lost(place)
            return _failed(f"the call to {url} broke off: {_plain(error)}", unknown=True)
        tracing.note({"url.full": url, "http.response.status_code": answer.status})
        self._reachability.answered(place)
        return classify(answer.status, answer.headers, answer.body, url=url, random=_spread(), now_ms=now_ms())


def _failed(error: str, *, unknown: bool) -> Failed:
    return Failed(error, unknown, _spread())


def _spread() -> float:
    return random.random()  # noqa: S311  # spreads waits, guards nothing


def _plain(error: Exception) -> str:
    """The cause in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:200]
