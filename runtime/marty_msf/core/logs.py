"""Logs of a process, operator or worker: one JSON object a line on standard error."""

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson


class JsonFormatter(logging.Formatter):
    """time, level, logger, message and, when there is one, the exception with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure(level: str, libraries: Mapping[str, str]) -> None:
    """Send all logs of the process there, once at its start. `level` is a name, INFO for instance.

    `libraries`: logger -> the lowest level at which it is heard, whatever `level` is.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    numbers = logging.getLevelNamesMapping()
    for name, lowest in libraries.items():
        logging.getLogger(name).setLevel(max(numbers[level], numbers[lowest]))
