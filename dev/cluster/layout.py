"""Where everything lies and which addresses it uses; values only."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BRIDGE: Final = "cni0"
NODE: Final = "node1"
NODE_IP: Final = "10.244.0.1"
LOOPBACK: Final = "127.0.0.1"
POD_CIDR: Final = "10.244.0.0/24"
SERVICE_CIDR: Final = "10.96.0.0/16"
KUBERNETES_SERVICE_IP: Final = "10.96.0.1"

API_URL: Final = f"https://{NODE_IP}:6443"
ETCD_URL: Final = f"http://{LOOPBACK}:12379"
ETCD_PEER_URL: Final = f"http://{LOOPBACK}:12380"
DNS_READY_PORT: Final = 8181
POSTGRES_PORT: Final = 15432
POSTGRES_USER: Final = "marty_admin"
# Kafka refuses two IPv4 listeners with the same port, also on different addresses.
KAFKA_PORT: Final = 19092
KAFKA_CONTROLLER_PORT: Final = 19093
KAFKA_CLUSTER_PORT: Final = 9092

# A unix socket's path must stay under 108 bytes, and containerd appends to ours.
LONGEST_STATE_PATH: Final = 60
REPOSITORY: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Layout:
    """The two directories: live data (`state`) and what is worth keeping between clusters (`cache`)."""

    state: Path
    cache: Path

    @staticmethod
    def of_environment() -> "Layout":
        """MARTY_DEV_STATE and XDG_CACHE_HOME move the directories.

        ValueError: the state path is too long for the sockets below it, or lies inside the checkout.
        """
        state = Path(os.environ.get("MARTY_DEV_STATE") or "/var/lib/marty-dev").resolve()
        if len(str(state)) > LONGEST_STATE_PATH:
            raise ValueError(
                f"MARTY_DEV_STATE={state} is longer than {LONGEST_STATE_PATH} characters: choose a shorter path"
            )
        if state.is_relative_to(REPOSITORY):
            raise ValueError(f"MARTY_DEV_STATE={state} lies inside the checkout: choose a path outside")
        base = os.environ.get("XDG_CACHE_HOME")
        return Layout(state, (Path(base) if base else Path.home() / ".cache") / "marty")

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def configs(self) -> Path:
        return self.state / "cfg"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def programs(self) -> Path:
        """For PATH: kubectl and helm."""
        return self.state / "bin"

    @property
    def images_json(self) -> Path:
        """Image names by purpose, as last built: `{"operator": "localhost/marty-operator:<hash>", ...}`."""
        return self.state / "images.json"

    def kubeconfig(self, user: str) -> Path:
        return self.state / "kube" / f"{user}.conf"
