"""A Kafka broker of the test's own, which may be killed: the shared one belongs to all tests."""

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from dev.cluster import kafka
from dev.cluster.layout import Layout
from tests.support.processes import free_port
from tests.support.waiting import eventually

CONFIG = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=HOST
listeners={addresses},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={addresses}
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=1000
"""


class Broker:
    """One broker process on a port of its own; its data stays when it is killed."""

    def __init__(self, directory: Path, listeners: Mapping[str, str] | None = None, settings: str = "") -> None:
        """Further `listeners` (name to security protocol) get ports of their own, and `settings` are added."""
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._port = free_port()
        self._controller = free_port()
        self._jars = kafka.jars(Layout.of_environment())
        shutil.copytree(self._jars.with_name(f"{self._jars.name}-formatted") / "data", directory / "data")
        protocols = {"HOST": "PLAINTEXT", **(listeners or {})}
        self._ports = {"HOST": self._port, **{name: free_port() for name in listeners or ()}}
        addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self._ports.items())
        (directory / "kafka.properties").write_text(
            CONFIG.format(
                addresses=addresses,
                controller=self._controller,
                data=directory / "data",
                protocols=",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            )
            + settings
        )

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    def at(self, listener: str) -> str:
        """`host:port` of one listener."""
        return f"127.0.0.1:{self._ports[listener]}"

    async def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._directory / "broker.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "java",
                "-Xmx256m",
                "-XX:+UseSerialGC",
                # It lives for seconds: the second compiler would not earn what it costs.
                "-XX:TieredStopAtLevel=1",
                f"-Dlog4j2.configurationFile={kafka.SOURCES / 'log4j2.properties'}",
                f"-Dmarty.state={self._directory}/",
                "-cp",
                f"{self._jars}/*",
                "kafka.Kafka",
                str(self._directory / "kafka.properties"),
                stdout=log,
                stderr=log,
            )
        await eventually(self._answers, seconds=60, every=0.3)

    async def kill(self) -> None:
        """End it with -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    def freeze(self) -> None:
        """From now on it takes connections and says nothing, as a machine that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal returns before all of the threads stand: one of them may still answer.
        deadline = time.monotonic() + 10
        while not all(_stands(thread) for thread in Path(f"/proc/{self._process.pid}/task").iterdir()):
            if time.monotonic() > deadline:
                raise TimeoutError("the broker does not stop")
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def restart(self) -> None:
        """Kill it and start it again on its data."""
        await self.kill()
        await self.start()

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise AssertionError((self._directory / "broker.log").read_text()[-3000:])
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            return bool((await asyncio.to_thread(client.list_topics, timeout=1)).brokers)
        except KafkaException:
            return False


@asynccontextmanager
async def broker(directory: Path, settings: str = "") -> AsyncIterator[Broker]:
    """A started broker, ended with the test; `settings` as Broker has them."""
    made = Broker(directory, settings=settings)
    try:
        await made.start()
        yield made
    finally:
        await made.kill()


def _stands(thread: Path) -> bool:
    """Whether a thread was stopped, or is no more."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return True
