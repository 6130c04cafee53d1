"""The pace of Python's collector of cyclic garbage."""

import gc


def set_pace() -> None:
    """For a process that works in batches, once it has loaded its code.

    Batches are thousands of short-lived values without cycles: the collector's usual pace costs a tenth of the work, or more.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
