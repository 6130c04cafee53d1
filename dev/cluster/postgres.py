"""PostgreSQL 15 of the Debian package with its own data directory, on a port of its own."""

import os
import secrets
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from dev.cluster.commands import run, succeeds
from dev.cluster.daemons import Daemon
from dev.cluster.files import made_whole, write_if_changed
from dev.cluster.layout import LOOPBACK, NODE_IP, POD_CIDR, POSTGRES_PORT, POSTGRES_USER, Layout

PROGRAMS: Final = Path("/usr/lib/postgresql/15/bin")
# The server refuses to run as root; the package brings this user.
SYSTEM_USER: Final = "postgres"
SETTINGS: Final = {
    "port": str(POSTGRES_PORT),
    "unix_socket_directories": "''",
    "password_encryption": "scram-sha-256",
    "max_connections": "300",
    "max_prepared_transactions": "10",
    "wal_level": "logical",
    "shared_buffers": "1GB",
    "wal_buffers": "64MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "lz4",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "'%m [%p] %q%u@%d '",
}


def daemon(layout: Layout, *, bridge: bool, durable: bool = True) -> Daemon:
    """`bridge`: also listen on the node's address, for pods. `durable`: see data_directory."""
    data = data_directory(layout, durable=durable)
    inputs = (config(bridge=bridge, durable=durable), access_rules(bridge=bridge))
    address = ", ".join(f"{host}:{POSTGRES_PORT}" for host in _hosts(bridge=bridge))
    argv = (*as_server_user(), str(PROGRAMS / "postgres"), "-D", str(data))
    # SIGINT ends connections and then the server; SIGTERM would wait for clients to leave.
    return Daemon("postgres", argv, address, inputs=inputs, stop_signal=signal.SIGINT)


def prepare(layout: Layout, *, bridge: bool, durable: bool = True) -> None:
    """Initialise the data directory once and write the configuration."""
    data = data_directory(layout, durable=durable)
    if not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        if not durable and os.geteuid() == 0 and not data.parent.is_mount():
            run(["mount", "-t", "tmpfs", "-o", "mode=0755", "marty-dev", data.parent])
        with made_whole(data) as draft:
            initialise(draft, password(layout))
    changed = write_if_changed(data / "postgresql.conf", config(bridge=bridge, durable=durable))
    changed |= write_if_changed(data / "pg_hba.conf", access_rules(bridge=bridge))
    if changed:
        for name in ("postgresql.conf", "pg_hba.conf"):
            give_to_server(data / name)


def is_ready() -> bool:
    return succeeds([PROGRAMS / "pg_isready", "-q", "-h", LOOPBACK, "-p", str(POSTGRES_PORT), "-t", "2"])


def data_directory(layout: Layout, *, durable: bool) -> Path:
    """Without `durable` in memory, if we may: a file system that makes and deletes the files of a database, again and
    again, takes longer for it than the tests between that."""
    return layout.state / "postgres" if durable else layout.state / "memory" / "postgres"


def password(layout: Layout) -> str:
    """The administrator's password, made on first use and kept in a file only its owner reads."""
    file = layout.state / "postgres.password"
    if not file.exists():
        write_if_changed(file, secrets.token_urlsafe(24), mode=0o600)
    return file.read_text()


def url(layout: Layout, host: str = LOOPBACK) -> str:
    return f"postgresql://{POSTGRES_USER}:{password(layout)}@{host}:{POSTGRES_PORT}/postgres"


def config(*, bridge: bool, durable: bool = True) -> str:
    addresses = ",".join(_hosts(bridge=bridge))
    settings = SETTINGS if durable else SETTINGS | {"fsync": "off", "max_wal_size": "1GB"}
    lines = [f"listen_addresses = '{addresses}'", *(f"{name} = {value}" for name, value in settings.items())]
    return "\n".join([*lines, ""])


def access_rules(*, bridge: bool) -> str:
    networks = [f"{LOOPBACK}/32", *([POD_CIDR] if bridge else [])]
    lines = [f"host {base} all {network} scram-sha-256" for network in networks for base in ("all", "replication")]
    return "\n".join([*lines, ""])


def _hosts(*, bridge: bool) -> Sequence[str]:
    return (LOOPBACK, NODE_IP) if bridge else (LOOPBACK,)


def initialise(draft: Path, secret: str) -> None:
    """Make an empty cluster in the absent directory `draft`; only POSTGRES_USER with this password gets in, over TCP."""
    draft.mkdir(mode=0o700)
    give_to_server(draft)
    with NamedTemporaryFile("w", prefix="marty-") as file:
        file.write(secret)
        file.flush()
        give_to_server(Path(file.name))
        options = ["--username", POSTGRES_USER, "--auth", "scram-sha-256", "--pwfile", file.name]
        locale = ["--encoding", "UTF8", "--locale", "C.UTF-8"]
        # No sync here: nothing is in it yet. The server itself runs with fsync on.
        command: list[str | Path] = [PROGRAMS / "initdb", "-D", draft, *options, *locale, "--no-sync"]
        run([*as_server_user(), *command], directory=Path("/"))


def as_server_user() -> tuple[str, ...]:
    """What to put in front of a command of the server's, whoever we are."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", f"--reuid={SYSTEM_USER}", f"--regid={SYSTEM_USER}", "--clear-groups")


def give_to_server(path: Path) -> None:
    """Make the server's user the owner of a file or directory of ours."""
    if os.geteuid() == 0:
        shutil.chown(path, SYSTEM_USER, SYSTEM_USER)
