"""The chart on a real cluster: install, upgrade and uninstall where only restricted pods are let in.

The release under test serves its own namespace and leaves the definitions to the release that the other tests share
(tests/contract/test_chart_rights.py installs and removes definitions, on an API server of its own).
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marty_msf.core.resources.spec import API_VERSION
from tests.support.cluster import Cluster

CHART = str(Path(__file__).parents[2] / "charts/marty-operator")
DEPLOYMENT = "deployment/marty-operator"
WAIT = ("--wait", "--timeout", "180s")


@pytest.fixture
def alone(cluster: Cluster, operator: str) -> Iterator[None]:
    """The shared operator rests, so that what happens is the work of the release under test."""
    cluster.kubectl("scale", "-n", operator, DEPLOYMENT, "--replicas=0")
    cluster.kubectl("wait", "-n", operator, "pod", "-l", "app.kubernetes.io/name=marty-operator", "--for=delete")
    yield
    cluster.kubectl("scale", "-n", operator, DEPLOYMENT, "--replicas=1")
    cluster.kubectl("rollout", "status", "-n", operator, DEPLOYMENT, "--timeout=120s")


@pytest.fixture
def served(cluster: Cluster) -> Iterator[str]:
    yield from _namespace(cluster)


@pytest.fixture
def foreign(cluster: Cluster) -> Iterator[str]:
    yield from _namespace(cluster)


def test_install_upgrade_and_uninstall(cluster: Cluster, operator: str, images: dict[str, str], served: str) -> None:
    values = _values(images, served)

    cluster.helm("install", "marty", CHART, "-n", served, *WAIT, *values)
    installed = cluster.get(DEPLOYMENT, "-n", served)
    cluster.helm("upgrade", "marty", CHART, "-n", served, *WAIT, *values, "--set", "logLevel=DEBUG")
    upgraded = cluster.get(DEPLOYMENT, "-n", served)
    cluster.helm("uninstall", "marty", "-n", served, *WAIT)

    assert installed["status"]["readyReplicas"] == 1
    assert upgraded["status"]["readyReplicas"] == 1
    assert upgraded["metadata"]["generation"] > installed["metadata"]["generation"]
    assert (
        cluster.get("deployments,serviceaccounts,roles,rolebindings", "-n", served, "-l", "helm.sh/chart")["items"]
        == []
    )


def test_a_narrow_operator_serves_its_namespace_and_no_other(
    cluster: Cluster, alone: None, images: dict[str, str], served: str, foreign: str
) -> None:
    cluster.helm("install", "marty", CHART, "-n", served, *WAIT, *_values(images, served))

    cluster.apply(_relay(foreign), _relay(served))

    ready = "{.status.conditions[?(@.type=='Ready')]"
    cluster.kubectl("wait", "-n", served, "obr/shop", f"--for=jsonpath={ready}.reason}}=SecretNotFound")
    assert "status" not in cluster.get("obr/shop", "-n", foreign)
    cluster.helm("uninstall", "marty", "-n", served, *WAIT)


def _namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace that refuses every pod that is not restricted."""
    name = f"chart-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def _relay(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "OutboxRelay",
        "metadata": {"name": "shop", "namespace": namespace},
        "spec": {
            "database": {"urlSecretRef": {"name": "missing"}},
            "kafka": {"bootstrapServers": "kafka:9092"},
        },
    }


def _values(images: dict[str, str], served: str) -> list[str]:
    settings = {
        "images.operator": images["operator"],
        "images.runtime": images["runtime"],
        "crds.enabled": "false",
        "rbac.aggregateRoles": "false",
        "watchNamespaces": f"{{{served}}}",
    }
    return ["--set", ",".join(f"{name}={value}" for name, value in settings.items())]
