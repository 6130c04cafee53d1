"""How a Python service does steps that are called over Kafka: each once, and the reply leaves with the effects.

A command is handled in one transaction with its guard and its reply; a relay brings the reply to Kafka. A duplicate gets the
first answer again. See docs/how-to/kafka-steps.md.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from asyncpg import Connection

from marty_msf.core.errors import InvalidDefinition, PoisonEvent
from marty_msf.core.saga.command import CORRELATION, IDEMPOTENCY_KEY, OUTCOME, REPLY_TOPIC, ReplyOutcome
from marty_msf.core.user_values import said
from marty_msf.patterns.choreography import Event, EventBus
from marty_msf.patterns.saga.guard import StepTooLate, step_guard
from marty_msf.worker.saga.calling.python_caller import StepRejected

ERROR_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class StepCommand:
    """What a handler gets."""

    saga_id: str
    step: str
    #: The step's action, or its compensation when `undo`.
    action: str
    undo: bool
    context: Mapping[str, Any]
    data: Mapping[str, Any]
    #: Of an undo: what doing it answered.
    result: Any
    idempotency_key: str
    #: The transaction of the effects, of the guard and of the reply.
    connection: Connection


#: Returns what goes into the saga's context, or None. Raises StepRejected, or anything else to be asked again.
CommandHandler: TypeAlias = Callable[[StepCommand], Awaitable[Mapping[str, Any] | None]]
HandlerT = TypeVar("HandlerT", bound=CommandHandler)


class StepCommands:
    """Handles the commands that an event bus reads.

    Whatever a handler raises becomes a reply, after its effects are rolled back: the saga decides what follows, and nothing
    of it is parked here.
    """

    def __init__(self, bus: EventBus, *, timeout_seconds: float = 20) -> None:
        """A handler that takes longer than `timeout_seconds` has failed. Raises InvalidDefinition when the bus gives it less."""
        if timeout_seconds >= bus.handler_timeout_seconds:
            raise InvalidDefinition(
                "timeout_seconds",
                f"{timeout_seconds:g} s are not below the {bus.handler_timeout_seconds:g} s of the event bus",
                "lower it, or raise handler_timeout_seconds of the bus",
            )
        self._bus = bus
        self._timeout_seconds = timeout_seconds

    def handler(self, action: str) -> Callable[[HandlerT], HandlerT]:
        """Mark the coroutine function that does an action, or a compensation. Raises NotRunning after the bus has started."""

        def marked(function: HandlerT) -> HandlerT:
            self._bus.subscribe(action, partial(self._handle, function))
            return function

        return marked

    async def _handle(self, handler: CommandHandler, event: Event) -> None:
        headers = event.headers
        if missing := [name for name in (CORRELATION, REPLY_TOPIC, IDEMPOTENCY_KEY) if not headers.get(name)]:
            raise PoisonEvent(f"command {event.type!r} has no header {', '.join(missing)}: was it sent by a saga?")
        try:
            outcome, answer = await self._done(handler, event)
        except Exception as error:
            words = f"{type(error).__name__}: {text}" if (text := said(error)) else type(error).__name__
            outcome, answer = ReplyOutcome.FAILED, {"error": words[:ERROR_CHARACTERS]}
        await self._bus.publish(
            "saga.reply",
            answer,
            aggregate_id=str(event.data.get("saga_id") or event.id) if isinstance(event.data, dict) else event.id,
            topic=headers[REPLY_TOPIC],
            headers={CORRELATION: headers[CORRELATION], OUTCOME: outcome.value},
            connection=event.connection,
        )
        # The guard knows what was done. A command that comes again is to be replied to again, not passed over.
        await self._bus.forget(event)

    async def _done(self, handler: CommandHandler, event: Event) -> tuple[ReplyOutcome, Any]:
        """Do the step, or find what it answered before. What raises leaves nothing behind."""
        body, key = event.data, event.headers[IDEMPOTENCY_KEY]
        try:
            async with asyncio.timeout(self._timeout_seconds), step_guard(event.connection, key) as step:
                if step.fresh:
                    result = step.done if step.undo else None
                    command = StepCommand(
                        step.saga_id,
                        step.name,
                        event.type,
                        step.undo,
                        body["context"],
                        body["data"],
                        result,
                        key,
                        event.connection,
                    )
                    try:
                        async with event.connection.transaction():
                            answer = handler(command)
                            step.answer = (await answer if inspect.isawaitable(answer) else answer) or {}
                    except StepRejected as refusal:
                        step.refuse({"error": said(refusal)[:ERROR_CHARACTERS]})
                return (ReplyOutcome.REJECTED if step.refused else ReplyOutcome.SUCCEEDED), step.answer
        except StepTooLate as late:
            return ReplyOutcome.REJECTED, {"error": str(late)}
