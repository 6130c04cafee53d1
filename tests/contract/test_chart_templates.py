"""The chart as Helm renders it: no typo passes, no value is ignored, the operator's pod is restricted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.layout import Layout
from tests.support.cluster import Cluster

CHART = Path(__file__).parents[2] / "charts/marty-operator"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
#: A value for each that differs from its default.
OTHER = {
    "images.operator": "registry.example/op:1",
    "images.runtime": "registry.example/run:1",
    "images.pullPolicy": "Always",
    "images.pullSecrets": [{"name": "pull"}],
    "crds.enabled": False,
    "crds.keep": False,
    "watchNamespaces": ["shop", "billing"],
    "logLevel": "DEBUG",
    "serviceAccount.annotations": {"a.example/b": "c"},
    "rbac.aggregateRoles": False,
    "resources": {"limits": {"memory": "1Gi"}},
    "podLabels": {"team": "platform"},
    "podAnnotations": {"a.example/b": "c"},
    "priorityClassName": "high",
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
}


def leaves(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, node in schema["properties"].items():
        if "default" in node:
            yield f"{prefix}{name}"
        elif "properties" in node:
            yield from leaves(node, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Helm without any cluster: rendering needs none."""
    return Cluster(tmp_path_factory.mktemp("helm") / "no-kubeconfig", Layout.of_environment().programs)


def render(helm: Cluster, *arguments: str) -> list[dict[str, Any]]:
    answer = helm.helm("template", "marty", str(CHART), "-n", "marty-system", *arguments)
    return [document for document in yaml.safe_load_all(answer.stdout) if document]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [document for document in documents if document["kind"] == kind]
    return found


def test_helm_lint_finds_nothing(helm: Cluster) -> None:
    assert "0 chart(s) failed" in helm.helm("lint", "--strict", str(CHART)).stdout


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("watchNamespace=shop", "watchNamespace"),
        ("images.opertor=x", "opertor"),
        ("crds.keep=maybe", "crds"),
        ("logLevel=loud", "logLevel"),
        ("watchNamespaces={Shop}", "watchNamespaces"),
        ("resources.limit.memory=1Gi", "limit"),
    ],
)
def test_a_typo_in_the_values_is_refused_by_name(helm: Cluster, argument: str, value: str) -> None:
    answer = helm.helm("template", "marty", str(CHART), "--set", argument, check=False)

    assert answer.returncode != 0
    assert value in answer.stderr


@pytest.mark.parametrize("path", sorted(leaves(SCHEMA)))
def test_no_value_is_accepted_and_ignored(helm: Cluster, path: str) -> None:
    assert render(helm, "--set-json", f"{path}={json.dumps(OTHER[path])}") != render(helm)


def test_the_operators_pod_is_restricted(helm: Cluster) -> None:
    """The rules of the Pod Security Standard `restricted`, and a read-only root besides."""
    pod = one(render(helm), "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_operator_learns_its_images_and_namespaces(helm: Cluster) -> None:
    documents = render(
        helm, "--set", "images.runtime=run:2,images.pullPolicy=Never,logLevel=WARNING,watchNamespaces={shop,billing}"
    )
    deployment = one(documents, "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]

    assert {entry["name"]: entry.get("value", "from the pod") for entry in container["env"]} == {
        "MARTY_NAMESPACE": "from the pod",
        "MARTY_RUNTIME_IMAGE": "run:2",
        "MARTY_RUNTIME_IMAGE_PULL_POLICY": "Never",
        "MARTY_WATCH_NAMESPACES": "shop,billing",
        "MARTY_LOG_LEVEL": "WARNING",
    }
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["replicas"] == 1


def test_a_narrow_watch_grants_nothing_cluster_wide(helm: Cluster) -> None:
    documents = render(helm, "--set", "watchNamespaces={shop,billing}")

    assert not [document for document in documents if document["kind"] == "ClusterRoleBinding"]
    roles = [document["metadata"] for document in documents if document["kind"] == "Role"]
    assert {role["namespace"] for role in roles} == {"shop", "billing", "marty-system"}


def test_two_releases_share_no_cluster_wide_name(helm: Cluster) -> None:
    def names(namespace: str) -> set[str]:
        answer = helm.helm("template", "marty", str(CHART), "-n", namespace, "--set", "crds.enabled=false")
        documents = [document for document in yaml.safe_load_all(answer.stdout) if document]
        return {d["metadata"]["name"] for d in documents if d["kind"].startswith("ClusterRole")}

    assert not names("one") & names("two")
