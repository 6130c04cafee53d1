"""Which functions a CEL expression may call is decided before anything runs."""

import subprocess
import sys

import pytest

from marty_msf.core.errors import ExpressionError, InvalidDefinition
from marty_msf.core.expressions import FUNCTIONS, Expression


@pytest.mark.parametrize(
    "source", ["nosuchfn(a)", "a.nosuchfn() > 1", "[1].all(x, nosuchfn(x))", "a || b.lowerAscii()"]
)
def test_an_unknown_function_is_refused_with_its_name(source: str) -> None:
    with pytest.raises(InvalidDefinition, match=r"spec\.x: .* calls (nosuchfn|lowerAscii), which CEL does not have"):
        Expression(source, "spec.x")


@pytest.mark.parametrize(
    "source",
    [
        "-a + 2 * 3 / 4 % 5 - 1 > 0 && !(b in [1]) || c <= d ? e[0] == f : g != h",
        "[1].map(x, x).filter(x, x > 1).exists_one(x, x == 1) || [1].exists(x, x < 1) || [1].all(x, x >= 1)",
        "has(a.b) && size(a.b) > 0 && {'a': 1}.a == 1",
    ],
)
def test_operators_and_macros_are_no_unknown_functions(source: str) -> None:
    Expression(source, "spec.x")


#: A call that each function of the language answers.
CALLS = {
    "contains": "'a'.contains('a')",
    "duration": "duration('1s')",
    "endsWith": "'a'.endsWith('a')",
    "hasValue": "optional.of(1).hasValue()",
    "matches": "'a'.matches('a')",
    "none": "optional.none().hasValue()",
    "of": "optional.of(1).value()",
    "ofNonZeroValue": "optional.ofNonZeroValue(1).value()",
    "or": "optional.none().or(optional.of(1)).value()",
    "orValue": "optional.none().orValue(1)",
    "startsWith": "'a'.startsWith('a')",
    "timestamp": "timestamp('2026-01-31T12:00:00Z')",
    "value": "optional.of(1).value()",
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_said_to_exist_does(name: str) -> None:
    default = f"timestamp('2026-01-31T12:00:00Z').{name}()" if name.startswith("get") else f"{name}('1')"
    source = CALLS.get(name, default)

    try:
        value = Expression(source, "spec.x").value({})
    except ExpressionError as error:
        pytest.fail(str(error))

    assert value is not None


def test_a_worker_imports_the_engine_without_its_command_line_and_a_relay_not_even_that() -> None:
    program = (
        "import sys, marty_msf.cli.run, marty_msf.worker.relay.role\n"
        "print('cel.cel' in sys.modules)\n"
        "import marty_msf.worker.saga.role, marty_msf.worker.projection.role\n"
        "print('cel.cel' in sys.modules, 'cel' in sys.modules)\n"
        "import cel; from marty_msf.core import cel_engine\n"
        "print(cel.compile('1').execute({}), type(cel.compile('1')) is type(cel_engine.compile_source('1')))\n"
    )

    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert output.splitlines() == ["False", "True False", "1 True"]
