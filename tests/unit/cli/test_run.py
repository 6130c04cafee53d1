"""`marty run` refuses what can never run, before it works."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from marty_msf.cli.run import run


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("1 +", "spec.steps[0].condition: '1 +' is no CEL expression"),
        ("now() > 1", "spec.steps[0].condition: 'now() > 1' calls now, which CEL does not have"),
        ("context.charge.ok", "spec.steps[0].condition: 'context.charge.ok' names step 'charge', which comes later"),
    ],
)
def test_an_expression_that_cannot_hold_is_refused_by_its_path(tmp_path: Path, condition: str, problem: str) -> None:
    steps: list[dict[str, Any]] = [
        {"name": "reserve", "service": "stock", "action": "reserve", "condition": condition},
        {"name": "charge", "service": "payment", "action": "charge"},
    ]
    spec = {"database": {"urlSecretRef": {"name": "db"}}, "steps": steps}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"role": "saga", "namespace": "shop", "name": "orders", "spec": spec}))

    done = CliRunner().invoke(run, ["saga", "--config", str(config)], env={"MARTY_DATABASE_URL": "", "MARTY_TOKEN": ""})

    assert done.exit_code == 2
    assert problem in done.output
