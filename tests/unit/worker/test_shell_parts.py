"""The small pure parts of the worker's shell."""

import pytest
from pydantic import ValidationError

from marty_msf.core.errors import DatabaseUnavailable, LeaseLost
from marty_msf.worker.backoff import Backoff
from marty_msf.worker.groups import first_error
from marty_msf.worker.settings import Settings

GOOD = {"MARTY_DATABASE_URL": "postgresql://u:pa55word@h/db", "MARTY_TOKEN": "t" * 16, "OTHER": "x"}


def test_a_bug_in_a_group_is_not_hidden_behind_the_errors_it_caused() -> None:
    bug = KeyError("x")
    group = ExceptionGroup("g", [LeaseLost("l"), ExceptionGroup("h", [DatabaseUnavailable("d"), bug])])

    assert first_error(group) is bug


def test_of_known_errors_the_first_counts() -> None:
    first = LeaseLost("l")

    assert first_error(ExceptionGroup("g", [first, DatabaseUnavailable("d")])) is first


def test_waits_double_up_to_the_longest_and_start_again_after_a_success() -> None:
    backoff = Backoff(0.2, 1)

    assert [backoff.next() for _ in range(5)] == [0.2, 0.4, 0.8, 1, 1]
    backoff.reset()
    assert backoff.next() == 0.2


def test_settings_come_from_the_environment_and_a_restart_is_another_holder() -> None:
    settings = Settings.from_environment({**GOOD, "MARTY_POD_NAME": "pod-1", "MARTY_HTTP_PORT": "0"})

    assert (settings.pod_name, settings.http_port, settings.log_level) == ("pod-1", 0, "INFO")
    assert settings.holder().startswith("pod-1/")
    assert settings.holder() != settings.holder()
    assert "pa55word" not in repr(settings)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"MARTY_TOKEN": "short-secret"}, "token"),
        ({"MARTY_HTTP_PORT": "70000"}, "http_port"),
        ({"MARTY_LOG_LEVEL": "LOUD"}, "log_level"),
    ],
)
def test_bad_settings_name_their_field(changes: dict[str, str], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.from_environment({**GOOD, **changes})

    assert [error["loc"] for error in caught.value.errors()] == [(field,)]
