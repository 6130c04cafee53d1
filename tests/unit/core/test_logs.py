"""What a line of the log is, for the operator and the workers alike."""

import logging
import sys

import orjson

from marty_msf.core.logs import JsonFormatter


def test_a_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("marty", logging.INFO, "", 0, "line one\nline %s", ("two",), None)

    line = JsonFormatter().format(record)

    assert "\n" not in line
    assert orjson.loads(line)["message"] == "line one\nline two"


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise LookupError("no such order")
    except LookupError:
        record = logging.LogRecord("marty", logging.ERROR, "", 0, "failed", (), sys.exc_info())

    line = JsonFormatter().format(record)

    assert "\n" not in line
    exception = orjson.loads(line)["exception"]
    assert exception.startswith("Traceback")
    assert exception.endswith("LookupError: no such order")
