"""Initialise the data directory when it is empty, then become the server; arguments go to the server."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

USER = "postgres"


def main() -> None:
    data = Path(os.environ["PGDATA"])
    if not (data / "PG_VERSION").exists():
        password = os.environ.get("POSTGRES_PASSWORD")
        if not password:
            sys.exit("POSTGRES_PASSWORD is not set: the new server needs a password for its user postgres")
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile("w") as file:
            file.write(password)
            file.flush()
            options = [
                "-U",
                USER,
                "--auth",
                "scram-sha-256",
                "--pwfile",
                file.name,
                "-E",
                "UTF8",
                "--locale",
                "C.UTF-8",
            ]
            subprocess.run(["initdb", "-D", data, *options], check=True)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
    settings = ["-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"]
    os.execvp("postgres", ["postgres", "-D", str(data), *settings, *sys.argv[1:]])


if __name__ == "__main__":
    main()
