"""One connection to a service: requests one after the other, each with its whole answer, within bounds.

llhttp reads the answers (by httptools): what it refuses, or is larger than the bounds here, is a broken answer.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from marty_msf.core.saga.outcome import ANSWER_LIMIT_BYTES
from marty_msf.core.value import value

#: Status line and headers.
_HEAD_LIMIT_BYTES: Final = 64 * 1024
#: Everything of one answer, with what its chunks add to it.
_RECEIVED_LIMIT_BYTES: Final = 8 * ANSWER_LIMIT_BYTES
#: The headers that matter to a step or to the connection.
_WANTED: Final[Mapping[bytes, str]] = {
    name.lower().encode(): name for name in ("Retry-After", "Content-Encoding", "Content-Length", "Transfer-Encoding")
}


class BrokenOff(Exception):
    """The request may have been read, and no whole answer came."""


@value
class Answer:
    """A complete answer."""

    status: int
    #: Only Retry-After and those about the body, by these spellings of their names.
    headers: Mapping[str, str]
    #: None: it was encoded, or larger than ANSWER_LIMIT_BYTES.
    body: bytes | None


class Connection(asyncio.Protocol):
    """`open` until it is closed by either side; `free` when it is, and may be used for another request."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser = HttpResponseParser(self)
        self._fresh()
        #: When it became free (of the event loop's clock).
        self.since = 0.0
        self.free = False

    @property
    def open(self) -> bool:
        """Whether neither side has closed it, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, seconds: float) -> Answer:
        """Send a request and wait for its answer. Raises BrokenOff or TimeoutError."""
        transport = self._transport
        if transport is None:
            raise BrokenOff("the connection was closed")
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Answer] = loop.create_future()
        self._waiting, self.free = waiting, False
        transport.write(request)
        # A timer of its own, because a time-out block around it costs as much as all the rest here.
        timer = loop.call_later(seconds, self._fail, TimeoutError())
        try:
            return await waiting
        except BaseException:
            self.free = False
            raise
        finally:
            timer.cancel()
            self._waiting = None
            if not self.free:
                self.close()

    def close(self) -> None:
        """Close it at once; what was not sent is not."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport, self.free = None, False
        if self._status and self._until_closed and error is None:
            self._answered()
        else:
            self._fail(BrokenOff(str(error) if error else "the service closed the connection"))

    def eof_received(self) -> None:
        """See asyncio.Protocol: the connection is closed."""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._waiting is None or self._waiting.done():
            self.close()  # nobody asked, or the answer was over
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._broken("the service changed the protocol")
        except HttpParserError as error:
            self._broken(f"no HTTP answer: {error}")
        else:
            limit = _RECEIVED_LIMIT_BYTES if self._status else _HEAD_LIMIT_BYTES
            if self._received > limit and self._waiting is not None and not self._waiting.done():
                self._broken(f"its answer goes on after {limit} bytes")

    def on_message_begin(self) -> None:
        """Of the parser."""
        if self._waiting is None or self._waiting.done():
            self.free = False  # more than one answer

    def on_header(self, name: bytes, text: bytes) -> None:
        """Of the parser."""
        self._head += len(name) + len(text)
        if self._head > _HEAD_LIMIT_BYTES:
            raise HttpParserError(f"over {_HEAD_LIMIT_BYTES} bytes of headers")
        if (wanted := _WANTED.get(name.lower())) is not None and not self._status:
            one = text.decode("latin-1").strip()
            self._headers[wanted] = f"{self._headers[wanted]}, {one}" if wanted in self._headers else one

    def on_headers_complete(self) -> None:
        """Of the parser."""
        status = self._parser.get_status_code()
        if status >= 200:  # the others announce an answer that comes
            self._status = status
            self._encoded = self._headers.get("Content-Encoding", "identity").lower() != "identity"
            self._until_closed = "Content-Length" not in self._headers and "Transfer-Encoding" not in self._headers

    def on_body(self, part: bytes) -> None:
        """Of the parser."""
        self._size += len(part)
        if self._size > ANSWER_LIMIT_BYTES or self._encoded:
            self._parts.clear()
            self._refused = True
            if self._size > ANSWER_LIMIT_BYTES:
                self._answered()
        else:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        """Of the parser."""
        if not self._status:
            self._headers.clear()
            return
        if self._waiting is None or self._waiting.done():
            return
        transport = self._transport
        sent = transport is not None and transport.get_write_buffer_size() == 0
        self.free = self._size <= ANSWER_LIMIT_BYTES and sent and self._parser.should_keep_alive()
        self._answered()

    def _answered(self) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            body = None if self._refused else b"".join(self._parts)
            waiting.set_result(Answer(self._status, self._headers, body))
        self._fresh()

    def _broken(self, error: str) -> None:
        self._fail(BrokenOff(error))
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def _fresh(self) -> None:
        """Nothing of an answer is there yet."""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._status = self._head = self._size = self._received = 0
        self._encoded = self._refused = self._until_closed = False
