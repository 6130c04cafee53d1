"""`marty saga …` in a thread of the tests: the same code as the program, without its start."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from marty_msf.cli import main


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def marty(url: str, *arguments: str, answer: str | None = None, group: str = "saga") -> Done:
    """`marty saga ARGUMENTS` (or another group) on this database. `answer` is typed when it asks back."""
    environment = {"MARTY_DATABASE_URL": url, "NO_COLOR": "1", "COLUMNS": "200"}
    result = await asyncio.to_thread(CliRunner().invoke, main, [group, *arguments], input=answer, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)
