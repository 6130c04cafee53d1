"""All calls of an instance are one trace: the one that its start belongs to, else its own."""

import re

import pytest

from marty_msf.core.trace import of_saga, parsed

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_an_instance_has_one_trace_and_another_one_another() -> None:
    one, other = of_saga("018f-1"), of_saga("018f-2")

    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", one)
    assert one == of_saga("018f-1")
    assert one != other
    assert parsed(one) == one


@pytest.mark.parametrize(
    "text",
    [
        f"00-{TRACE}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01".encode(),
        # A later version may have more behind.
        f"cc-{TRACE}-{SPAN}-01-what-the-future-brings",
    ],
)
def test_a_traceparent_is_taken_over_in_the_form_we_know(text: str | bytes) -> None:
    assert parsed(text) == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        b"\xff",
        "00-1",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\r\nX-Admin: 1",
    ],
)
def test_what_is_none_is_left_out(text: str | bytes | None) -> None:
    assert parsed(text) is None
