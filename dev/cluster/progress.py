"""What a person sees while long things happen: one numbered line per step with its elapsed time."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TextIO

FRAMES: Final = "|/-\\"
TERMINAL_SECONDS: Final = 0.2
LOG_SECONDS: Final = 5.0
WORTH_A_LINE_SECONDS: Final = 2.0


@dataclass(slots=True)
class Step:
    """One running step; `note` replaces the words shown beside it (a percentage, a package's name)."""

    title: str
    started: float
    words: str = field(default="")

    def note(self, words: str) -> None:
        self.words = words


class Progress:
    """Steps may run side by side in threads. On a terminal the running ones share a spinner line."""

    def __init__(self, steps: int, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._steps = steps
        self._done = 0
        self._running: list[Step] = []
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Progress":
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._ticker.join()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Count and time one step; an error is shown with the step it belongs to and goes on to the caller."""
        step = Step(title, time.monotonic())
        with self._lock:
            self._running.append(step)
        outcome = "failed"
        try:
            yield step
            outcome = ""
        finally:
            with self._lock:
                self._running.remove(step)
                self._done += 1
                line = f"[{self._done:2}/{self._steps}] {title:<44} {outcome:>6} {elapsed(step.started):>8}"
                self._print(line + (f"  {step.words}" if step.words else ""))

    def _tick(self) -> None:
        terminal = self._out.isatty()
        turn = 0
        while not self._finished.wait(TERMINAL_SECONDS if terminal else LOG_SECONDS):
            turn += 1
            with self._lock:
                shown = [s for s in self._running if time.monotonic() - s.started >= WORTH_A_LINE_SECONDS]
                if not shown:
                    continue
                text = "; ".join(f"{s.title} {elapsed(s.started)} {s.words}".rstrip() for s in shown)
                if terminal:
                    self._out.write(f"\r\x1b[K{FRAMES[turn % 4]} {text[:110]}")
                else:
                    self._out.write(f"        … {text}\n")
                self._out.flush()

    def _print(self, line: str) -> None:
        start = "\r\x1b[K" if self._out.isatty() else ""
        self._out.write(f"{start}{line}\n")
        self._out.flush()


def elapsed(started: float) -> str:
    """Time since a monotonic instant: `0.8s` or `2m05s`."""
    seconds = time.monotonic() - started
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds) // 60}m{int(seconds) % 60:02}s"
