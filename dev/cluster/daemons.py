"""Long-running programs: started detached, known by their recorded pid, stopped by it and by nothing else."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dev.cluster.commands import without_proxies
from dev.cluster.errors import ClusterError
from dev.cluster.files import digest_of, write_if_changed
from dev.cluster.layout import Layout

POLL_SECONDS: Final = 0.05
LOG_TAIL_LINES: Final = 12
START_MARK: Final = "--- started "
ERROR_LINE: Final = re.compile(r"\b(ERROR|FATAL|PANIC|Caused by)\b|panic:|^[EF]\d{4} |\blevel=(error|fatal)\b")


@dataclass(frozen=True, slots=True)
class Daemon:
    """One program. Its command line names a path below the state directory; that is how a pid is known to be ours.

    `inputs` are texts (of configuration files) whose change means a restart.
    """

    name: str
    argv: tuple[str, ...]
    address: str
    environment: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM

    @property
    def key(self) -> str:
        return digest_of(*(text.encode() for text in (*self.argv, *self.inputs)))


def start(daemon: Daemon, layout: Layout) -> bool:
    """Start it when it does not run or runs with other settings; True when it was started now."""
    running = pid_of(daemon.name, layout)
    if running is not None:
        if _key_file(daemon.name, layout).read_text() == daemon.key:
            return False
        stop([daemon.name], layout)
    layout.logs.mkdir(parents=True, exist_ok=True)
    _pid_file(daemon.name, layout).parent.mkdir(parents=True, exist_ok=True)
    with log_file(daemon.name, layout).open("ab") as log:
        log.write(f"{START_MARK}{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        process = subprocess.Popen(
            daemon.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=without_proxies(os.environ) | dict(daemon.environment),
        )
    write_if_changed(_key_file(daemon.name, layout), daemon.key)
    write_if_changed(_stop_file(daemon.name, layout), daemon.stop_signal.name)
    write_if_changed(_pid_file(daemon.name, layout), f"{process.pid}\n")
    return True


def await_ready(name: str, layout: Layout, ready: Callable[[], bool], *, seconds: float) -> None:
    """Poll until ready; ClusterError with the end of its log when it died or is not ready in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        if pid_of(name, layout) is None:
            raise ClusterError(f"{name} ended while it started.\n{_log_tail(name, layout)}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{name} was not ready after {seconds:.0f} s.\n{_log_tail(name, layout)}")
        time.sleep(POLL_SECONDS)


def pid_of(name: str, layout: Layout) -> int | None:
    """The pid when the recorded process lives and is still ours (pids are reused)."""
    try:
        pid = int(_pid_file(name, layout).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if is_ours(pid, layout) else None


def is_ours(pid: int, layout: Layout) -> bool:
    """Whether a live process names our state directory in its command line.

    The command line is empty for a moment while a program replaces itself with another (setpriv does). A zombie
    has none either, but no program file.
    """
    process = Path(f"/proc/{pid}")
    try:
        command = (process / "cmdline").read_bytes()
        return f"{layout.state}/".encode() in command or (not command and bool((process / "exe").readlink()))
    except (FileNotFoundError, ProcessLookupError):
        return False


def recorded(layout: Layout) -> list[str]:
    return sorted(path.stem for path in (layout.run / "pids").glob("*.pid"))


def stop(names: Iterable[str], layout: Layout, *, seconds: float = 10.0) -> None:
    """Ask all of them at once, wait, then kill what is left."""
    living = {name: pid for name in names if (pid := pid_of(name, layout)) is not None}
    for name, pid in living.items():
        send(pid, signal.Signals[_stop_file(name, layout).read_text()])
    end(living.values(), layout, seconds=seconds)
    for name in living:
        _pid_file(name, layout).unlink(missing_ok=True)


def end(pids: Iterable[int], layout: Layout, *, seconds: float) -> None:
    """Wait for our processes to end and kill those that do not."""
    pids = list(pids)
    if not await_gone(lambda: [pid for pid in pids if is_ours(pid, layout)], seconds):
        for pid in pids:
            if is_ours(pid, layout):
                send(pid, signal.SIGKILL)
        await_gone(lambda: [pid for pid in pids if is_ours(pid, layout)], seconds)


def await_gone(left: Callable[[], list[int]], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while left():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def send(pid: int, what: signal.Signals) -> None:
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return


def log_file(name: str, layout: Layout) -> Path:
    return layout.logs / f"{name}.log"


def _log_tail(name: str, layout: Layout) -> str:
    path = log_file(name, layout)
    _, _, latest = path.read_text(errors="replace").rpartition(START_MARK) if path.exists() else ("", "", "")
    return "\n".join([f"From {path}:", *(f"    {line[:300]}" for line in telling_lines(latest))])


def telling_lines(log: str) -> list[str]:
    """The lines of a log that tell why a program ended: those marked as errors, else the last ones."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINE.search(line)]
    return (errors or lines)[-LOG_TAIL_LINES:]


def _pid_file(name: str, layout: Layout) -> Path:
    return layout.run / "pids" / f"{name}.pid"


def _key_file(name: str, layout: Layout) -> Path:
    return layout.run / "pids" / f"{name}.key"


def _stop_file(name: str, layout: Layout) -> Path:
    return layout.run / "pids" / f"{name}.signal"


def started_at(name: str, layout: Layout) -> float:
    """Seconds since the epoch at which the daemon was last started."""
    return _pid_file(name, layout).stat().st_mtime
