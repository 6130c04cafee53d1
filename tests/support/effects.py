"""Crash tests: the effects of a pass are recorded, then the process is killed in every gap between two of them.

Product code has no hooks: tests hand recording wrappers of the pool, the producer or the caller to the loop's constructor.
An effect is one statement, one commit, one send, one acknowledgement, one HTTP call. `Effects.before(name)` is called
just before each; in gap n (before effect n) the process can be made to kill itself with SIGKILL.
"""

import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_STATEMENTS = frozenset({"execute", "executemany", "fetch", "fetchrow", "fetchval", "copy_records_to_table"})


class Effects:
    """Counts effects into a file (it survives SIGKILL) and kills the process before effect `kill_before`.

    That is its number, or text that its name contains: the first one of a kind, wherever it comes.
    """

    def __init__(self, journal: Path, kill_before: int | str | None = None) -> None:
        self._journal = journal
        self._kill_before = kill_before
        self._count = 0

    def before(self, name: str) -> None:
        """An effect is about to happen."""
        if self._kill_before == self._count or (isinstance(self._kill_before, str) and self._kill_before in name):
            self._write(f"KILLED before {self._count} {name}")
            os.kill(os.getpid(), signal.SIGKILL)
        self._write(f"{self._count} {name}")
        self._count += 1

    def end(self) -> None:
        """After the last effect: the gap behind it."""
        self.before("end of the pass")

    def _write(self, line: str) -> None:
        with self._journal.open("a") as journal:
            journal.write(line + "\n")


def recorded(journal: Path) -> list[str]:
    """Names of the effects a run recorded, in order; the last one stands for the gap behind the last effect."""
    return [line.partition(" ")[2] for line in journal.read_text().splitlines() if not line.startswith("KILLED")]


def killed_in(journal: Path) -> int | None:
    """Which gap killed the run, None when none did."""
    for line in journal.read_text().splitlines():
        if line.startswith("KILLED before "):
            return int(line.split()[2])
    return None


def killed_before(journal: Path) -> str | None:
    """Name of the effect that the run was killed before, None when it was not killed."""
    lines = [line for line in journal.read_text().splitlines() if line.startswith("KILLED before ")]
    return lines[0].split(maxsplit=3)[3] if lines else None


class Recording:
    """Any object; calls of the named coroutine or plain methods are effects, everything else passes through."""

    def __init__(self, target: Any, effects: Effects, methods: Collection[str], prefix: str) -> None:
        self._target = target
        self._effects = effects
        self._methods = methods
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name not in self._methods:
            return attribute

        @functools.wraps(attribute)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._effects.before(f"{self._prefix} {name} {_words(args)}".rstrip())
            return attribute(*args, **kwargs)

        return call


class RecordingConnection(Recording):
    """An asyncpg connection whose statements and commits are effects."""

    def __init__(self, target: Any, effects: Effects) -> None:
        super().__init__(target, effects, _STATEMENTS, "sql")

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[None]:
        transaction = self._target.transaction(**options)
        await transaction.start()
        try:
            yield
        except BaseException:
            await transaction.rollback()
            raise
        self._effects.before("sql commit")
        await transaction.commit()


class RecordingPool:
    """An asyncpg pool that hands out recording connections."""

    def __init__(self, pool: Any, effects: Effects) -> None:
        self._pool = pool
        self._effects = effects

    @asynccontextmanager
    async def acquire(self, **options: Any) -> AsyncIterator[RecordingConnection]:
        async with self._pool.acquire(**options) as conn:
            yield RecordingConnection(conn, self._effects)

    def __getattr__(self, name: str) -> Any:
        attribute: Callable[..., Any] = getattr(self._pool, name)
        if name not in _STATEMENTS:
            return attribute

        @functools.wraps(attribute)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._effects.before(f"sql {name} {_words(args)}")
            return attribute(*args, **kwargs)

        return call


def _words(args: tuple[Any, ...]) -> str:
    """A short name for a statement or call: the first words of its first text argument."""
    text = next((argument for argument in args if isinstance(argument, str)), "")
    return " ".join(text.split()[:6])
