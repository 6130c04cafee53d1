"""HTTP/1.1 as steps need it: one request, one whole answer, over connections that are kept for the next one.

No redirects, cookies, proxies, unpacking or repeated requests. A general client costs a step more than all that the saga itself does.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from socket import SOCK_STREAM
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from marty_msf.worker.saga.calling.http_connection import Answer, BrokenOff, Connection

__all__ = ["Answer", "BrokenOff", "HttpClient", "NotConnected", "session"]

#: Servers close idle connections (some after 5 s); a call on a connection that just closed has an unknown outcome.
KEEP_ALIVE_SECONDS: Final = 4
CONNECT_SECONDS: Final = 5.0
#: Until another address of a name is tried beside the first one (RFC 8305).
NEXT_ADDRESS_SECONDS: Final = 0.25
_DEFAULTS: Final[Mapping[str, str]] = {"Accept": "*/*", "User-Agent": "marty-saga"}

#: Certificates that are trusted; True: those of the system.
Trust: TypeAlias = ssl.SSLContext | bool


class NotConnected(Exception):
    """There was no connection, so the service never saw the request."""


class _Target(NamedTuple):
    """What a URL says."""

    host: str
    port: int
    tls: bool
    #: The Host header.
    authority: str
    #: Path and query.
    path: str


class HttpClient:
    """Connections by where they lead and whom they trust; the one that became free last is used first."""

    def __init__(self) -> None:
        self._free: dict[tuple[str, int, Trust], list[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, seconds: float, trust: Trust
    ) -> Answer:
        """Make a request. Raises NotConnected, BrokenOff or TimeoutError; ValueError for what cannot be sent.

        `url` has nothing to encode, and neither user nor fragment.
        """
        target = _target(url)
        message = _message(method, target, headers, body)
        place = (target.host, target.port, trust if target.tls else False)
        connection = self._take(place)
        if connection is None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            connection = await _connect(target, trust, seconds)
            seconds -= loop.time() - began
        answer = await connection.exchange(message, seconds)
        if connection.free:
            self._keep(place, connection)
        return answer

    def close(self) -> None:
        """Close what is kept."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connections in self._free.values():
            for connection in connections:
                connection.close()
        self._free.clear()

    def _take(self, place: tuple[str, int, Trust]) -> Connection | None:
        free = self._free.get(place)
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE_SECONDS
        while free:
            connection = free.pop()
            if connection.open and connection.since > oldest:
                return connection
            connection.close()
        return None

    def _keep(self, place: tuple[str, int, Trust], connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.since = loop.time()
        self._free.setdefault(place, []).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS, self._close_old)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEEP_ALIVE_SECONDS
        for place, connections in list(self._free.items()):
            kept = [it for it in connections if it.open and it.since > oldest]
            for it in set(connections).difference(kept):
                it.close()
            if kept:
                self._free[place] = kept
            else:
                del self._free[place]
        self._sweep = loop.call_later(KEEP_ALIVE_SECONDS, self._close_old) if self._free else None


@asynccontextmanager
async def session() -> AsyncIterator[HttpClient]:
    """A client whose connections are closed at the end."""
    client = HttpClient()
    try:
        yield client
    finally:
        client.close()


@functools.lru_cache(maxsize=1024)
def _target(url: str) -> _Target:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    if not parts.hostname or (parts.scheme != "http" and not tls):
        raise ValueError(f"{url!r} is no http or https URL")
    path = parts.path or "/"
    return _Target(
        parts.hostname,
        parts.port or (443 if tls else 80),
        tls,
        parts.netloc,
        f"{path}?{parts.query}" if parts.query else path,
    )


def _message(method: str, target: _Target, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The request as it is sent. Raises ValueError for a header that would be read as several."""
    given = {name.lower() for name in headers}
    lines = [f"{method} {target.path} HTTP/1.1", f"Host: {target.authority}"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    lines += [f"{name}: {text}" for name, text in _DEFAULTS.items() if name.lower() not in given]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a header has a line break or a NUL")
    return b"%b\r\n\r\n%b" % (head.encode(), body or b"")


async def _connect(target: _Target, trust: Trust, seconds: float) -> Connection:
    """A new connection. Raises NotConnected."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            tls = (trust if isinstance(trust, ssl.SSLContext) else await _system_trust()) if target.tls else None
            addresses = await loop.getaddrinfo(target.host, target.port, type=SOCK_STREAM)
            async with asyncio.timeout(CONNECT_SECONDS):
                sock = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, interleave=1)
            try:
                _, connection = await loop.create_connection(
                    Connection, sock=sock, ssl=tls, server_hostname=target.host if tls else None
                )
            except BaseException:
                sock.close()
                raise
    except TimeoutError:
        raise NotConnected("it took too long") from None
    except ssl.SSLCertVerificationError as error:
        raise NotConnected(f"the certificate is not trusted: {error}") from error
    except OSError as error:
        raise NotConnected(_plain(error)) from error
    return connection


def _plain(error: OSError) -> str:
    """The cause in one line, as people know it."""
    return " ".join((error.strerror or str(error) or type(error).__name__).split())[:200]


@functools.cache
def _read_system_trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _system_trust() -> ssl.SSLContext:
    """Read once, which takes a tenth of a second."""
    return await asyncio.to_thread(_read_system_trust)
