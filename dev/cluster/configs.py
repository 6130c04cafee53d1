"""The text of every configuration file of the Kubernetes parts; pure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dev.cluster.layout import BRIDGE, DNS_READY_PORT, LOOPBACK, NODE, NODE_IP, POD_CIDR, Layout

PAUSE_IMAGE: Final = "localhost/pause:1"


def kubernetes_configs(layout: Layout) -> Mapping[Path, str]:
    """Path to text; JSON is YAML, so Kubernetes reads it."""
    return {
        layout.configs / "containerd.toml": containerd(layout),
        layout.configs / "cni" / "10-pod.conflist": _json(pod_network(layout)),
        layout.configs / "kubelet.yaml": _json(kubelet(layout)),
        layout.configs / "proxy.yaml": _json(proxy(layout)),
        layout.configs / "resolv.conf": f"nameserver {NODE_IP}\n",
        layout.configs / "Corefile": corefile(layout),
    }


def containerd(layout: Layout) -> str:
    plugin = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{layout.state}/containerd"
state = "{layout.run}/containerd"
[grpc]
  address = "{layout.containerd_socket}"
[{plugin}]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  [{plugin}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{layout.configs}/cni"
  [{plugin}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [{plugin}.containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{layout.run}/runc"
"""


def pod_network(layout: Layout) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": f"{layout.state}/ipam",
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,  # pods reach this machine only; the guard refuses the rest
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pod", "plugins": [bridge, ports]}


def kubelet(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "healthzBindAddress": LOOPBACK,
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "clusterDNS": [NODE_IP],
        "seccompDefault": True,
        "volumePluginDir": f"{layout.configs}/volume-plugins",
        "podLogsDir": f"{layout.state}/podlogs",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{layout.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{layout.pki}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{layout.pki}/kubelet-server.key",
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "resolvConf": f"{layout.configs}/resolv.conf",
        "evictionHard": {"memory.available": "100Mi"},
        # Images are loaded by hand and there is no registry: a collected one would never come back.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def proxy(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("proxy"))},
        "mode": "iptables",
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": NODE,
        "healthzBindAddress": f"{LOOPBACK}:10256",
        "metricsBindAddress": f"{LOOPBACK}:10249",
        "nodePortAddresses": [POD_CIDR],
        "conntrack": {"maxPerCore": 0},  # the table's size belongs to the machine, not to us
        "iptables": {"minSyncPeriod": "100ms"},
    }


def corefile(layout: Layout) -> str:
    """Cluster names are answered, everything else does not exist: no question leaves the machine."""
    return f"""cluster.local:53 in-addr.arpa:53 {{
    bind {NODE_IP}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {layout.kubeconfig("coredns")}
        ttl 5
    }}
}}
.:53 {{
    bind {NODE_IP}
    ready {LOOPBACK}:{DNS_READY_PORT}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
