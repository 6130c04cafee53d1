"""Choreography: services that follow each other's events, without anybody in the middle; see docs/how-to/choreography.md."""

from marty_msf.patterns.choreography.bus import EventBus
from marty_msf.patterns.choreography.consumer import Retries
from marty_msf.patterns.choreography.event import Event
from marty_msf.store.inbox import Parked

__all__ = ["Event", "EventBus", "Parked", "Retries"]
