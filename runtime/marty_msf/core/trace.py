"""W3C trace context of an instance's calls (https://www.w3.org/TR/trace-context/). Pure."""

import hashlib
import re
from typing import Final

TRACEPARENT: Final = "traceparent"
_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def parsed(text: str | bytes | None) -> str | None:
    """A traceparent that somebody sent, in the form of version 00; None for what is none.

    What is wrong with it is never told: a trace must not stop the work it is about.
    """
    if text is None:
        return None
    plain = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    found = _FORM.fullmatch(plain.strip())
    if found is None or (plain.strip().startswith("00") and found[4]):
        return None
    return f"00-{found[1]}-{found[2]}-{found[3]}"


def of_saga(saga_id: str) -> str:
    """The traceparent of an instance that was started without one: all that its services record is one trace.

    Its sampled flag is not set: whether to record is left to the services.
    """
    digest = hashlib.blake2b(saga_id.encode(), digest_size=24).hexdigest()
    return f"00-{digest[:32]}-{digest[32:]}-00"
