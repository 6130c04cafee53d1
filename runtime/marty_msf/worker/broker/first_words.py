"""What a port answers to Kafka's first question, byte by byte: a client of Kafka cannot tell what is none."""

import asyncio
import socket
import struct
from contextlib import suppress
from enum import Enum, auto
from typing import Final

#: ApiVersions, version 0: what every broker answers, also before a login. Length, key, version, number, client's name.
_NUMBER: Final = 0x6D617274
_NAME: Final = b"marty-diagnosis"
_REQUEST: Final = struct.pack(">hhih", 18, 0, _NUMBER, len(_NAME)) + _NAME
QUESTION: Final = struct.pack(">i", len(_REQUEST)) + _REQUEST
#: Length and number of an answer.
_HEAD_BYTES: Final = 8
_CLOSE_SECONDS: Final = 0.2


class FirstWords(Enum):
    """Who seems to be there."""

    #: Nobody takes the connection.
    NOBODY = auto()
    #: Its name does not resolve.
    UNKNOWN = auto()
    #: Kafka answers as it should: something else is wrong.
    KAFKA = auto()
    #: Something that is no Kafka answers.
    FOREIGN = auto()
    #: The connection is taken, and closed without an answer.
    CLOSED = auto()
    #: The connection is taken, and nothing is said.
    SILENT = auto()


async def first_words(host: str, port: int, seconds: float) -> FirstWords:
    """Ask without TLS and without a login, and wait so long for an answer."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
    except socket.gaierror:
        return FirstWords.UNKNOWN
    except (OSError, TimeoutError):
        return FirstWords.NOBODY
    try:
        writer.write(QUESTION)
        async with asyncio.timeout(seconds):
            head = await reader.readexactly(_HEAD_BYTES)
    except asyncio.IncompleteReadError as error:
        return FirstWords.FOREIGN if error.partial else FirstWords.CLOSED
    except OSError as error:  # TimeoutError is one
        return FirstWords.SILENT if isinstance(error, TimeoutError) else FirstWords.CLOSED
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await writer.wait_closed()
    return FirstWords.KAFKA if head[4:] == struct.pack(">i", _NUMBER) else FirstWords.FOREIGN
