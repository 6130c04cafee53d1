"""Which way a step is called, and what becomes of a function that is gone."""

from typing import Any, cast

from marty_msf.core.saga.calling import PythonCall
from marty_msf.core.saga.definition import load, stored_form
from marty_msf.core.saga.events import Misconfigured, Succeeded
from marty_msf.worker.saga.calling.callers import Callers
from marty_msf.worker.saga.calling.calls import Request
from marty_msf.worker.saga.calling.handlers import Handlers
from tests.unit.core.saga.definitions import spec

STEP = {"name": "rate", "compensation": "undo", "call": {"python": {"handler": "rate"}}}


def request(*, undo: bool) -> Request:
    step = load(stored_form(spec(STEP, runtime={"handlers": "handlers"}))).steps[0]
    assert step.call == PythonCall("rate")
    body = b'{"saga_id": "s1", "step": "rate", "context": {"a": 1}, "data": {}}'
    return Request("own", "rate", undo, "s1:rate:do:1", body, 5.0, step, {"a": 1}, "s1")


async def test_a_function_is_called_by_the_name_that_the_step_gives() -> None:
    handlers = Handlers()
    handlers.register_step_handler("rate", lambda context: {"rated": context["a"]})
    callers = Callers(cast("Any", None), handlers)

    assert await callers.call(request(undo=False)) == Succeeded({"rated": 1})
    gone = await callers.call(request(undo=True))

    assert isinstance(gone, Misconfigured)
    assert "@saga_compensation('rate') any more: bring it back" in gone.error
    handlers.close()
