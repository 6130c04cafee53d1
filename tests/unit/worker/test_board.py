"""What is logged of problems: each when it appears, and when it is over; never both for one that stays."""

import logging

import pytest

from marty_msf.core.errors import BrokerUnavailable, DatabaseUnavailable
from marty_msf.core.worker_status import ProblemReason
from marty_msf.worker.board import Board

BOARD = "marty_msf.worker.board"


def test_a_problem_that_is_met_again_at_each_retry_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, BOARD)
    board = Board()
    for _ in range(3):
        board.replace(DatabaseUnavailable("Postgres does not answer"))
    assert caplog.messages == ["DatabaseUnavailable: Postgres does not answer"]
    board.clear(ProblemReason.DATABASE_UNAVAILABLE)
    assert caplog.messages[1:] == ["DatabaseUnavailable is over"]


def test_what_was_up_before_an_error_is_gone_but_not_called_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, BOARD)
    board = Board()
    board.report_error(BrokerUnavailable("Kafka does not answer"))
    board.replace(DatabaseUnavailable("Postgres does not answer"))
    assert [problem.reason for problem in board.current()] == [ProblemReason.DATABASE_UNAVAILABLE]
    assert not [message for message in caplog.messages if message.endswith("is over")]
