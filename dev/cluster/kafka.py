"""One Kafka broker that is also its own controller (KRaft), from the jars of the released version."""

import shutil
from pathlib import Path
from typing import Final

from dev.cluster.commands import follow, run
from dev.cluster.daemons import START_MARK, Daemon
from dev.cluster.errors import ClusterError
from dev.cluster.files import digest_of, made_whole, write_if_changed
from dev.cluster.layout import KAFKA_CLUSTER_PORT, KAFKA_CONTROLLER_PORT, KAFKA_PORT, LOOPBACK, NODE_IP, Layout
from dev.cluster.progress import Step

SOURCES: Final = Path(__file__).parent / "broker"
LOGGING: Final = SOURCES / "log4j2.properties"
CLUSTER_ID: Final = "bWFydHktbG9jYWwta2Fma2"
HEAP: Final = ("-Xms512m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true")


def fetch(layout: Layout, step: Step) -> Path:
    """The directory of the broker's jars, fetched once per version of the pom."""
    target = jars(layout)
    if target.exists():
        return target
    if shutil.which("mvn") is None:
        raise ClusterError("mvn: program not found. Install the package maven")
    with made_whole(target) as draft:
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={draft}"]
        follow(
            ["mvn", "-B", "-ntp", "-f", SOURCES / "pom.xml", *goal],
            lambda line: step.note(line.removeprefix("[INFO] ")[:60]),
            remedy="Maven could not fetch Kafka. Run the same command again to go on.",
        )
    step.note("")
    return target


def jars(layout: Layout) -> Path:
    return layout.cache / "kafka" / digest_of((SOURCES / "pom.xml").read_bytes())


def daemon(layout: Layout, *, bridge: bool) -> Daemon:
    """`bridge`: a second listener, advertised with the node's address, for pods."""
    text = server_config(layout, bridge=bridge)
    argv = (*_java(layout), "kafka.Kafka", str(layout.configs / "kafka.properties"))
    address = f"{LOOPBACK}:{KAFKA_PORT}" + (f", {NODE_IP}:{KAFKA_CLUSTER_PORT}" if bridge else "")
    return Daemon("kafka", argv, address, inputs=(text, LOGGING.read_text()))


def prepare(layout: Layout, *, bridge: bool) -> None:
    """Write the configuration and format the data directory when it is new."""
    config = layout.configs / "kafka.properties"
    write_if_changed(config, server_config(layout, bridge=bridge))
    # A copy: another checkout of the same sources must not find another command line, and restart the broker.
    write_if_changed(layout.configs / LOGGING.name, LOGGING.read_text())
    if not data_directory(layout).exists():
        with made_whole(data_directory(layout)) as draft:
            shutil.copytree(_formatted(layout), draft)


def is_ready(layout: Layout) -> bool:
    """The broker has registered itself and opened its listeners (a bare TCP connect would succeed too early)."""
    log = layout.logs / "kafka.log"
    if not log.exists():
        return False
    _, _, latest = log.read_text(errors="replace").rpartition(START_MARK)
    return "Kafka Server started" in latest


def data_directory(layout: Layout) -> Path:
    return layout.state / "kafka"


def server_config(layout: Layout, *, bridge: bool, data: Path | None = None) -> str:
    """server.properties; `data` stands in for the data directory while a template of it is made."""
    names = {"HOST": f"{LOOPBACK}:{KAFKA_PORT}"}
    if bridge:
        names["CLUSTER"] = f"{NODE_IP}:{KAFKA_CLUSTER_PORT}"
    advertised = ",".join(f"{name}://{address}" for name, address in names.items())
    controller = f"{LOOPBACK}:{KAFKA_CONTROLLER_PORT}"
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "HOST",
        "listeners": f"{advertised},CONTROLLER://{controller}",
        "advertised.listeners": advertised,
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in (*names, "CONTROLLER")),
        "log.dirs": str(data or data_directory(layout)),
        "auto.create.topics.enable": "false",
        "num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # After a kill the broker waits until its former self is given up.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "1000",
        "group.initial.rebalance.delay.ms": "0",
        "num.network.threads": "2",
        "num.io.threads": "4",
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _formatted(layout: Layout) -> Path:
    """An empty, formatted data directory to copy: formatting starts a whole JVM, which costs seconds."""
    target = layout.cache / "kafka" / f"{jars(layout).name}-formatted"
    if not target.exists():
        with made_whole(target) as draft:
            draft.mkdir()
            config = draft / "format.properties"
            config.write_text(server_config(layout, bridge=False, data=draft / "data"))
            run([*_java(layout), "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", config])
    return target / "data"


def _java(layout: Layout) -> tuple[str, ...]:
    logging = f"-Dlog4j2.configurationFile={layout.configs / LOGGING.name}"
    # The state path in the command line marks the process as ours.
    return ("java", *HEAP, logging, f"-Dmarty.state={layout.state}/", "-cp", f"{jars(layout)}/*")
