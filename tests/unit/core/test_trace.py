"""All calls of an instance are one trace."""

import re

from marty_msf.core.trace import of_saga


def test_an_instance_has_one_trace_and_another_one_another() -> None:
    one, other = of_saga("018f-1"), of_saga("018f-2")

    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", one)
    assert one == of_saga("018f-1")
    assert one != other
