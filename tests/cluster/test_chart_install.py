"""The chart on a real cluster: install, upgrade and uninstall in a namespace that enforces restricted pods.

The definitions belong to whoever installed them first, and other tests use them: here they are only applied, never
removed (tests/contract/test_chart_rights.py removes them, on an API server of its own). The operator under test serves
its own namespace alone, so that it leaves every other operator in peace.
"""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.layout import Layout
from tests.support.cluster import Cluster, local_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
CHART = str(ROOT / "charts/marty-operator")


@pytest.fixture(scope="module")
def machine() -> Cluster:
    cluster = local_cluster()
    crds = str(ROOT / "crds")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=tests", "-f", crds)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", crds)
    return cluster


@pytest.fixture
def namespace(machine: Cluster) -> Iterator[str]:
    """A fresh namespace that refuses every pod that is not restricted."""
    name = f"chart-{secrets.token_hex(3)}"
    machine.kubectl("create", "namespace", name)
    machine.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    machine.kubectl("delete", "namespace", name, "--wait=false")


def test_install_upgrade_and_uninstall(machine: Cluster, namespace: str) -> None:
    values = _values(namespace)
    wait = ("--wait", "--timeout", "120s")

    machine.helm("install", "marty", CHART, "-n", namespace, *wait, *values)
    installed = machine.get("deployment", "marty-operator", "-n", namespace)
    machine.helm("upgrade", "marty", CHART, "-n", namespace, *wait, *values, "--set", "logLevel=DEBUG")
    upgraded = machine.get("deployment", "marty-operator", "-n", namespace)
    machine.helm("uninstall", "marty", "-n", namespace, *wait)

    assert installed["status"]["readyReplicas"] == 1
    assert upgraded["status"]["readyReplicas"] == 1
    assert upgraded["metadata"]["generation"] > installed["metadata"]["generation"]
    assert not machine.get("deployment,serviceaccount,role,rolebinding", "-n", namespace, "-l", "helm.sh/chart")[
        "items"
    ]
    assert len(machine.get("crd", "-o", "json", "sagas.consistency.marty.dev")["spec"]["versions"]) == 1


def test_the_installed_operator_takes_up_a_resource(machine: Cluster, namespace: str) -> None:
    """Its rights suffice to look, to think and to write a status: here, that a Secret is missing."""
    machine.helm("install", "marty", CHART, "-n", namespace, "--wait", "--timeout", "120s", *_values(namespace))
    relay = {
        "apiVersion": "consistency.marty.dev/v1alpha1",
        "kind": "OutboxRelay",
        "metadata": {"name": "shop", "namespace": namespace},
        "spec": {
            "database": {"urlSecretRef": {"name": "missing"}},
            "kafka": {"bootstrapServers": "kafka:9092"},
        },
    }

    machine.apply(relay)

    machine.kubectl(
        "wait", "-n", namespace, "obr/shop", "--for=jsonpath={.status.conditions[?(@.type=='Ready')].status}=False"
    )
    machine.helm("uninstall", "marty", "-n", namespace, "--wait")


def _values(namespace: str) -> list[str]:
    images = json.loads(Layout.of_environment().images_json.read_text())
    settings = {
        "images.operator": images["operator"],
        "images.runtime": images["runtime"],
        "crds.enabled": "false",
        "rbac.aggregateRoles": "false",
        "watchNamespaces": f"{{{namespace}}}",
    }
    return ["--set", ",".join(f"{name}={value}" for name, value in settings.items())]
