"""What the local cluster writes and reads as text: configurations, rule dumps, status files, logs."""

import json
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dev.cluster import configs, control_plane, kafka, leftovers, network, postgres, teardown
from dev.cluster.api import node_ready
from dev.cluster.daemons import telling_lines
from dev.cluster.layout import LONGEST_STATE_PATH, REPOSITORY, Layout
from dev.cluster.packages import installed_packages

LAYOUT = Layout(Path("/var/lib/somewhere"), Path("/cache/marty"))


def test_every_configuration_file_lies_in_the_state_directory_and_json_ones_parse() -> None:
    for path, text in configs.kubernetes_configs(LAYOUT).items():
        assert path.is_relative_to(LAYOUT.state)
        if path.suffix in (".yaml", ".conflist"):
            assert json.loads(text)


def test_every_daemon_names_the_state_directory_so_that_its_pid_can_be_recognised() -> None:
    found = [
        control_plane.etcd(LAYOUT),
        control_plane.containerd_daemon(LAYOUT),
        control_plane.apiserver(LAYOUT),
        control_plane.controller_manager(LAYOUT),
        control_plane.scheduler(LAYOUT),
        control_plane.kubelet_daemon(LAYOUT),
        control_plane.proxy_daemon(LAYOUT),
        control_plane.coredns(LAYOUT),
        postgres.daemon(LAYOUT, bridge=True),
        postgres.daemon(LAYOUT, bridge=True, durable=False),
        kafka.daemon(LAYOUT, bridge=False),
    ]
    for daemon in found:
        assert any(f"{LAYOUT.state}/" in argument for argument in daemon.argv), daemon.name
        assert teardown.is_daemon_command(list(daemon.argv), LAYOUT), daemon.name


@pytest.mark.parametrize(
    "command",
    [
        "vim /var/lib/somewhere/cfg/kubelet.yaml",
        "tail -f /var/lib/somewhere/log/kafka.log",
        "/var/lib/somewhere/bin/kubectl --kubeconfig /var/lib/somewhere/kube/admin.conf get pods",
        "postgres -D /var/lib/postgresql/15/main",
        "java -Dmarty.state=/var/lib/elsewhere/ kafka.Kafka",
        "containerd -c /etc/containerd/config.toml",
    ],
)
def test_a_persons_own_programs_are_never_taken_for_daemons(command: str) -> None:
    assert not teardown.is_daemon_command(command.split(), LAYOUT)


def test_servers_listen_on_every_interface_in_no_mode() -> None:
    for bridge in (False, True):
        texts = postgres.config(bridge=bridge) + kafka.server_config(LAYOUT, bridge=bridge)
        assert "0.0.0.0" not in texts
        assert "127.0.0.1" in texts
        assert ("10.244.0.1" in texts) is bridge


def test_kafka_gives_each_ipv4_listener_a_port_of_its_own() -> None:
    lines = dict(line.split("=", 1) for line in kafka.server_config(LAYOUT, bridge=True).splitlines())
    ports = [listener.rpartition(":")[2] for listener in lines["listeners"].split(",")]

    assert len(ports) == len(set(ports)) == 3


def test_a_changed_configuration_changes_the_key_that_asks_for_a_restart() -> None:
    assert postgres.daemon(LAYOUT, bridge=True).key != postgres.daemon(LAYOUT, bridge=False).key
    assert kafka.daemon(LAYOUT, bridge=True).key == kafka.daemon(LAYOUT, bridge=True).key


def test_only_the_clusters_rules_leave_a_rule_dump() -> None:
    saved = """# Generated
*filter
:INPUT ACCEPT [5:300]
:KUBE-SERVICES - [0:0]
:MARTY-GUARD - [0:0]
:OWN - [0:0]
-A INPUT -j OWN
-A FORWARD -j MARTY-GUARD
-A INPUT -m comment --comment "kubernetes" -j KUBE-SERVICES
-A OWN -p tcp --dport 22 -j ACCEPT
COMMIT
"""
    kept = network.without_cluster_rules(saved).splitlines()

    expected = ["*filter", ":INPUT ACCEPT [5:300]", ":OWN - [0:0]", "-A INPUT -j OWN"]
    assert kept == [*expected, "-A OWN -p tcp --dport 22 -j ACCEPT", "COMMIT"]


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("10.96.0.0/16 dev cni0 scope link src 10.244.0.1", True),
        ("unreachable 10.244.0.0/24 metric 4294967290", True),
        ("default via 192.0.2.1 dev eth0", False),
        ("192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2", False),
    ],
)
def test_cluster_routes_are_told_from_the_machines(line: str, ours: bool) -> None:
    assert leftovers.is_cluster_route(line) is ours


def test_mounts_are_found_below_the_directory_with_escaped_names() -> None:
    mountinfo = (
        "20 1 0:1 / / rw - ext4 /dev/vda rw\n"
        "21 20 0:2 / /var/lib/somewhere/a\\040b rw - tmpfs tmpfs rw\n"
        "22 20 0:3 / /var/lib/somewhere-else rw - tmpfs tmpfs rw\n"
    )

    assert teardown.mounts_below(LAYOUT.state, mountinfo) == ["/var/lib/somewhere/a b"]


def test_a_removed_package_with_its_configuration_left_is_not_installed() -> None:
    status = (
        "Package: runc\nStatus: install ok installed\nPriority: optional\n\n"
        "Package: maven\nStatus: deinstall ok config-files\n"
    )

    assert installed_packages(status) == {"runc"}


def test_a_node_that_was_ready_before_this_start_is_not_ready_yet() -> None:
    def node(beat: str, status: str = "True") -> dict[str, object]:
        return {"status": {"conditions": [{"type": "Ready", "status": status, "lastHeartbeatTime": beat}]}}

    start = datetime(2030, 1, 1, 12, 0, 5, 700_000, tzinfo=UTC)

    assert node_ready(node("2030-01-01T12:00:05Z"), start)
    assert not node_ready(node("2030-01-01T12:00:04Z"), start)
    assert not node_ready(node("2030-01-01T12:00:09Z", "False"), start)
    assert not node_ready({}, start)


def test_a_logs_errors_are_shown_rather_than_its_last_lines() -> None:
    log = "starting\n2030 ERROR address in use\nCaused by: java.net.BindException\nshut down\n"

    assert telling_lines(log) == ["2030 ERROR address in use", "Caused by: java.net.BindException"]
    assert telling_lines("one\n\ntwo\n") == ["one", "two"]


def test_a_state_directory_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("/" + "x" * LONGEST_STATE_PATH, str(REPOSITORY / "state")):
        monkeypatch.setenv("MARTY_DEV_STATE", bad)
        with pytest.raises(ValueError, match="choose a"):
            Layout.of_environment()


def test_pod_groups_may_go_while_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teardown, "CGROUPS", tmp_path)
    pods = tmp_path / "freezer" / "kubepods"
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(20):
                (pods / f"pod{number}" / "container").mkdir(parents=True)
            for number in range(20):
                shutil.rmtree(pods / f"pod{number}")

    others = threading.Thread(target=come_and_go)
    others.start()
    try:
        for _ in range(200):
            teardown.pod_cgroups()
    finally:
        ended.set()
        others.join()

    assert teardown.pod_cgroups() == [pods]
