"""The outbox as pure values: what is decided about its events and its tables."""
