"""In a process of an application's own the client's log lines about our connections are not heard; those of its own clients are.

aiokafka logs each failed attempt, some hundred lines in an outage; the board says the same once, with the remedy. Whoever
sets a level for one of its loggers wants to hear them, and hears all of them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

CLIENT: Final = "aiokafka"
#: Whether what runs here is ours: tasks and connections that are made here inherit it.
_OURS: Final = ContextVar("marty_kafka_is_ours", default=False)


@contextmanager
def quiet_client() -> Iterator[None]:
    """Whatever begins here, and goes on after it, lets the client log what is critical only."""
    for name in tuple(logging.root.manager.loggerDict):
        if name == CLIENT or name.startswith(f"{CLIENT}."):
            logging.getLogger(name).addFilter(_is_heard)
    token = _OURS.set(True)
    try:
        yield
    finally:
        _OURS.reset(token)


def _is_heard(record: logging.LogRecord) -> bool:
    if not _OURS.get() or record.levelno >= logging.CRITICAL:
        return True
    return any(logging.getLogger(name).level != logging.NOTSET for name in (CLIENT, record.name))
