"""Why an event could not be published, as one cause for all events that fail alike. Pure.

Fingerprints are stored with dead letters: another way to compute them makes new causes of old ones.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

#: Characters of a normalised message; what is behind them does not count.
MESSAGE_LIMIT: Final = 500

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
#: With a mark, or so long that it is no word, and with a digit.
_HEX: Final = re.compile(r"0x[0-9a-f]+|\b(?=[a-f]*[0-9])[0-9a-f]*[a-f][0-9a-f]*\b(?<=[0-9a-f]{8})", re.IGNORECASE)
#: Also offsets, times, versions and addresses: digits with what stands between them.
_NUMBER: Final = re.compile(r"\d+(?:[.,:]\d+)*")
#: An apostrophe inside a word opens nothing.
_QUOTED: Final = re.compile(r"""(?:(?<!\w)'[^']*'|"[^"]*"|`[^`]*`)+""")


@dataclass(frozen=True, slots=True)
class Cause:
    """What events that failed alike have in common."""

    #: Twelve hex digits.
    fingerprint: str
    #: What was said, with ids, numbers and quoted values replaced.
    message: str


def cause(error_type: str, topic: str, event_type: str, message: str) -> Cause:
    """The cause of one failure; the same for every event of this type and topic that fails for the same reason."""
    normalised = normalise(message)
    parts = (error_type, topic, event_type, normalised)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return Cause(sha256(text.encode(errors="backslashreplace")).hexdigest()[:12], normalised)


def normalise(message: str) -> str:
    """The message on one line without what differs from event to event."""
    line = " ".join("".join(it if it.isprintable() else " " for it in message).split())
    for pattern, name in ((_UUID, "<uuid>"), (_HEX, "<hex>"), (_NUMBER, "<number>"), (_QUOTED, "<value>")):
        line = pattern.sub(name, line)
    return line[:MESSAGE_LIMIT].strip()
