"""The user's module is imported once and checked against the steps before any of them runs."""

import sys
from pathlib import Path
from typing import Any

import pytest

from marty_msf.core.errors import HandlersUnusable
from marty_msf.worker.saga.calling.user_code import load
from tests.unit.core.saga.definitions import spec

GOOD = """
from marty_msf.patterns.saga import saga_compensation, saga_step


@saga_step("charge")
def charge(context):
    return {"charged": context["total"]}


@saga_compensation("charge")
def refund(context):
    return None
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The file of a module of the test's own, which is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"handlers_{abs(hash(request.node.name))}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / f"{name}.py"


def saga(module: Path, **step: Any) -> Any:
    call = {"call": {"python": {"handler": "charge"}}}
    return spec({"name": "pay", "compensation": "undo", **call, **step}, runtime={"handlers": module.stem})


def test_marked_functions_do_and_undo_the_steps_that_name_them(module: Path) -> None:
    module.write_text(GOOD)

    handlers = load(saga(module))

    assert handlers.has("charge", undo=False)
    assert handlers.has("charge", undo=True)


def test_without_a_module_there_are_no_handlers() -> None:
    assert not load(spec({"name": "pay"})).has("pay", undo=False)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def (", "cannot be imported (SyntaxError"),
        ("import nowhere_to_be_found", "cannot be imported (ModuleNotFoundError: No module named 'nowhere"),
        ("raise SystemExit(3)", "cannot be imported (SystemExit: 3)"),
        ("", "no function marked with @saga_step('charge'): add it or correct the name"),
        (
            GOOD.replace("saga_compensation(", "saga_step(", 1).replace('"charge")\ndef refund', '"x")\ndef refund'),
            "@saga_compensation",
        ),
        (GOOD + GOOD.replace("def charge", "def again").split("@saga_compensation")[0], "is registered already"),
    ],
    ids=["no Python", "not installed", "ends the process", "no handler", "no compensation", "two handlers"],
)
def test_code_that_cannot_be_used_is_told_with_the_remedy(module: Path, code: str, says: str) -> None:
    module.write_text(code)

    with pytest.raises(HandlersUnusable) as caught:
        load(saga(module))

    assert says in str(caught.value)
    assert str(caught.value).startswith("spec.")
