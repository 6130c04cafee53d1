"""The command lines of etcd and of the Kubernetes programs; pure."""

import signal
from typing import Final

from dev.cluster.binaries import COREDNS, KUBERNETES
from dev.cluster.configs import containerd, corefile, kubelet, pod_network, proxy
from dev.cluster.daemons import Daemon
from dev.cluster.layout import (
    API_URL,
    DNS_READY_PORT,
    ETCD_PEER_URL,
    ETCD_URL,
    LOOPBACK,
    NODE,
    NODE_IP,
    SERVICE_CIDR,
    Layout,
)

FAST_CLIENT: Final = ("--kube-api-qps=200", "--kube-api-burst=400")


def etcd(layout: Layout) -> Daemon:
    peers = f"node1={ETCD_PEER_URL}"
    options = {
        "name": NODE,
        "data-dir": f"{layout.state}/etcd",
        "log-level": "warn",
        "listen-client-urls": ETCD_URL,
        "advertise-client-urls": ETCD_URL,
        "listen-peer-urls": ETCD_PEER_URL,
        "initial-advertise-peer-urls": ETCD_PEER_URL,
        "initial-cluster": peers,
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
    }
    # Objects are throw-away here; what the product must not lose is in Postgres, which does sync.
    return Daemon("etcd", (*_program(layout, "etcd"), "--unsafe-no-fsync", *_flags(options)), ETCD_URL)


def containerd_daemon(layout: Layout) -> Daemon:
    argv = ("containerd", "-c", f"{layout.configs}/containerd.toml")
    return Daemon("containerd", argv, f"unix://{layout.containerd_socket}", inputs=(containerd(layout),))


def apiserver(layout: Layout) -> Daemon:
    pki = layout.pki
    options = {
        "etcd-servers": ETCD_URL,
        "bind-address": NODE_IP,
        "advertise-address": NODE_IP,
        "secure-port": "6443",
        "tls-cert-file": f"{pki}/apiserver.crt",
        "tls-private-key-file": f"{pki}/apiserver.key",
        "client-ca-file": f"{pki}/ca.crt",
        "kubelet-client-certificate": f"{pki}/apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{pki}/apiserver-kubelet-client.key",
        "kubelet-certificate-authority": f"{pki}/ca.crt",
        "kubelet-preferred-address-types": "InternalIP",
        "requestheader-client-ca-file": f"{pki}/front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": f"{pki}/front-proxy-client.crt",
        "proxy-client-key-file": f"{pki}/front-proxy-client.key",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": f"{pki}/sa.pub",
        "service-account-signing-key-file": f"{pki}/sa.key",
        "service-cluster-ip-range": SERVICE_CIDR,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "profiling": "false",
    }
    # It keeps nothing itself, and asked politely it waits up to a minute for watches to end.
    argv = (*_program(layout, "kube-apiserver"), *_flags(options))
    return Daemon("kube-apiserver", argv, API_URL, stop_signal=signal.SIGKILL)


def controller_manager(layout: Layout) -> Daemon:
    options = {
        **_client(layout, "controller-manager"),
        "use-service-account-credentials": "true",
        "root-ca-file": f"{layout.pki}/ca.crt",
        "service-account-private-key-file": f"{layout.pki}/sa.key",
        "cluster-signing-cert-file": f"{layout.pki}/ca.crt",
        "cluster-signing-key-file": f"{layout.pki}/ca.key",
        "requestheader-client-ca-file": f"{layout.pki}/front-proxy-ca.crt",
    }
    argv = (*_program(layout, "kube-controller-manager"), *_flags(options), *FAST_CLIENT)
    return Daemon("kube-controller-manager", argv, f"https://{LOOPBACK}:10257")


def scheduler(layout: Layout) -> Daemon:
    argv = (*_program(layout, "kube-scheduler"), *_flags(_client(layout, "scheduler")), *FAST_CLIENT)
    return Daemon("kube-scheduler", argv, f"https://{LOOPBACK}:10259")


def kubelet_daemon(layout: Layout) -> Daemon:
    options = {
        "config": f"{layout.configs}/kubelet.yaml",
        "kubeconfig": str(layout.kubeconfig("kubelet")),
        "root-dir": f"{layout.state}/kubelet",
        "cert-dir": f"{layout.state}/kubelet/pki",
        "hostname-override": NODE,
        "node-ip": NODE_IP,
    }
    argv = (*_program(layout, "kubelet"), *_flags(options))
    inputs = (str(kubelet(layout)), str(pod_network(layout)))
    return Daemon("kubelet", argv, f"https://{NODE_IP}:10250", inputs=inputs)


def proxy_daemon(layout: Layout) -> Daemon:
    argv = (*_program(layout, "kube-proxy"), f"--config={layout.configs}/proxy.yaml")
    return Daemon("kube-proxy", argv, f"http://{LOOPBACK}:10256", inputs=(str(proxy(layout)),))


def coredns(layout: Layout) -> Daemon:
    argv = (str(COREDNS.path(layout)), "-conf", f"{layout.configs}/Corefile")
    return Daemon("coredns", argv, f"{NODE_IP}:53 (ready on :{DNS_READY_PORT})", inputs=(corefile(layout),))


def _program(layout: Layout, name: str) -> tuple[str, str]:
    return str(KUBERNETES.path(layout)), name


def _client(layout: Layout, user: str) -> dict[str, str]:
    kubeconfig = str(layout.kubeconfig(user))
    return {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": LOOPBACK,
        "leader-elect": "false",
    }


def _flags(options: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]
