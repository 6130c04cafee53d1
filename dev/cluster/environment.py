"""How tests and people reach the cluster."""

import os

from dev.cluster import postgres
from dev.cluster.layout import (
    KAFKA_CLUSTER_PORT,
    KAFKA_PORT,
    LOOPBACK,
    NODE_IP,
    POD_CIDR,
    POSTGRES_PORT,
    SERVICE_CIDR,
    Layout,
)


def variables(layout: Layout) -> dict[str, str]:
    """MARTY_TEST_* are for clients on this machine, MARTY_CLUSTER_* for clients in pods."""
    return {
        "KUBECONFIG": str(layout.kubeconfig("admin")),
        "MARTY_TEST_POSTGRES": postgres.url(layout),
        "MARTY_TEST_KAFKA": f"{LOOPBACK}:{KAFKA_PORT}",
        "MARTY_CLUSTER_POSTGRES": postgres.url(layout, NODE_IP),
        "MARTY_CLUSTER_POSTGRES_ADDRESS": f"{NODE_IP}:{POSTGRES_PORT}",
        "MARTY_CLUSTER_KAFKA": f"{NODE_IP}:{KAFKA_CLUSTER_PORT}",
        "MARTY_IMAGES": str(layout.images_json),
        "NO_PROXY": f"localhost,{LOOPBACK},{POD_CIDR},{SERVICE_CIDR}",
        "PATH": f"{layout.programs}:{os.environ.get('PATH', '')}",
    }
