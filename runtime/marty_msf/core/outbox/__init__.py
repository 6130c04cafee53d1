"""Decisions about events of the outbox. Pure."""
