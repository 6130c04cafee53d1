"""Turn KAFKA_<SETTING> variables into the broker's settings, format its empty data directory, then become the broker."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

CONFIG = Path("/tmp/server.properties")
CLUSTER_ID = "bWFydHktZGVtby1rYWZrYQ"
NOT_SETTINGS = ("KAFKA_HEAP_OPTS", "KAFKA_OPTS")


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """`KAFKA_LOG_DIRS=/data` is `log.dirs=/data`."""
    names = [name for name in environment if name.startswith("KAFKA_") and name not in NOT_SETTINGS]
    return {name.removeprefix("KAFKA_").lower().replace("_", "."): environment[name] for name in names}


def main() -> None:
    found = settings(os.environ)
    CONFIG.write_text("".join(f"{name}={value}\n" for name, value in found.items()))
    options = shlex.split(os.environ.get("KAFKA_HEAP_OPTS", "-Xmx512m"))
    java = [
        "java",
        *options,
        "-Dlog4j2.configurationFile=/opt/kafka/config/log4j2.properties",
        "-cp",
        "/opt/kafka/libs/*",
    ]
    if not Path(found["log.dirs"], "meta.properties").exists():
        tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(CONFIG)]
        subprocess.run([*java, *tool], check=True)
    os.execvp("java", [*java, "kafka.Kafka", str(CONFIG)])


if __name__ == "__main__":
    main()
