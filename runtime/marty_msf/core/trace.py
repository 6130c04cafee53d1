"""W3C trace context of an instance's calls. Pure."""

import hashlib


def of_saga(saga_id: str) -> str:
    """The traceparent of every call of an instance: all that its services record is one trace.

    Its sampled flag is not set: whether to record is left to the services. The worker records no spans of its own.
    """
    digest = hashlib.blake2b(saga_id.encode(), digest_size=24).hexdigest()
    return f"00-{digest[:32]}-{digest[32:]}-00"
