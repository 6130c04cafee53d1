"""Dead letters as JSON values."""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from marty_msf.core.worker_status import DeadLetterGroup
from marty_msf.store.outbox_dead import BEHIND_LIMIT, Group, Letter, Whole


def group_form(it: Group) -> Mapping[str, Any]:
    """A cause with its numbers."""
    return {
        "cause": it.cause,
        "count": it.dead,
        "total": it.dead_total,
        "sample": it.sample,
        "error_type": it.error_type,
        "topic": it.topic,
        "event_type": it.event_type,
        "message": it.message,
        "first_at": it.first_at.isoformat(),
        "last_at": it.last_at.isoformat(),
    }


def group_status(it: Group) -> DeadLetterGroup:
    """A cause as the worker's status has it."""
    return DeadLetterGroup(
        cause=it.cause,
        count=it.dead,
        sample=it.sample or 0,
        topic=it.topic,
        event_type=it.event_type,
        message=it.message,
        since=it.first_at.isoformat(timespec="seconds"),
    )


def letter_form(it: Letter) -> Mapping[str, Any]:
    """A line of a list."""
    return {
        "id": it.id,
        "cause": it.cause,
        "error": it.error,
        "topic": it.topic,
        "event_type": it.event_type,
        "aggregate_type": it.aggregate_type,
        "aggregate_id": it.aggregate_id,
        "attempts": it.attempts,
        "first_failed_at": _text(it.first_failed_at),
        "last_failed_at": _text(it.last_failed_at),
        "created_at": it.created_at.isoformat(),
        "blocks_its_aggregate": it.in_order,
    }


def whole_form(it: Whole, behind: int, first_behind: int | None) -> Mapping[str, Any]:
    """All of one event; its payload as text, or as base64 when it is none."""
    return {
        "id": it.id,
        "event_id": str(it.event_id),
        "state": it.state,
        "cause": it.cause,
        "error": it.error,
        "attempts": it.attempts,
        "max_attempts": it.max_attempts,
        "first_failed_at": _text(it.first_failed_at),
        "last_failed_at": _text(it.last_failed_at),
        "due_at": _text(it.due_at),
        "held_at": it.held_at.isoformat(),
        "created_at": it.created_at.isoformat(),
        "deliver_after": _text(it.deliver_after),
        "topic": it.topic,
        "event_type": it.event_type,
        "aggregate_type": it.aggregate_type,
        "aggregate_id": it.aggregate_id,
        "message_key": it.message_key,
        "priority": ("low", "normal", "high")[it.priority],
        "lane": it.lane,
        "blocks_its_aggregate": it.in_order,
        "in_dead_letter_topic": it.copied,
        "dead_letter_topic_error": it.copy_error,
        "waiting_behind": behind,
        "waiting_behind_is_more": behind >= BEHIND_LIMIT,
        "first_waiting": first_behind,
        "headers": it.own_headers,
        **payload_form(it.payload),
    }


def payload_form(payload: bytes) -> Mapping[str, str]:
    """As text, or as base64 when it is no UTF-8, or none that `jsonb` can hold."""
    try:
        if b"\0" not in payload:
            return {"payload": payload.decode()}
    except UnicodeDecodeError:
        pass
    return {"payload_base64": base64.b64encode(payload).decode()}


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
