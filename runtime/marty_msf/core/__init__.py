"""The pure domain shared by operator and runtime: resource specs, state machines, retry, errors. No I/O happens here."""
