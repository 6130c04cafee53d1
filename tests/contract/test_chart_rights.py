"""What the installed chart lets the operator and people do, and what becomes of the definitions when it goes.

On an API server of its own, because installing and removing definitions would disturb every other test.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import api_server
from tests.support.cluster import Cluster

Attributes = dict[str, str]

CHART = str(Path(__file__).parents[2] / "charts/marty-operator")
NAMESPACE = "marty-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:marty-operator"
MARTY = "consistency.marty.dev"
CRDS = {
    "crd/sagas.consistency.marty.dev",
    "crd/outboxrelays.consistency.marty.dev",
    "crd/projections.consistency.marty.dev",
}
#: Verb, group, resource (with subresource), and whether the operator may do so in a namespace that it serves.
RIGHTS = [
    ("list", MARTY, "sagas", True),
    ("watch", MARTY, "projections", True),
    ("patch", MARTY, "outboxrelays/status", True),
    ("update", MARTY, "sagas/finalizers", True),
    ("patch", MARTY, "sagas", False),
    ("delete", MARTY, "sagas", False),
    ("watch", "apps", "deployments", True),
    ("patch", "apps", "deployments", True),
    ("delete", "apps", "deployments", False),
    ("create", "batch", "jobs", True),
    ("delete", "batch", "jobs", True),
    ("get", "", "secrets", True),
    ("create", "", "secrets", True),
    ("list", "", "secrets", False),
    ("watch", "", "secrets", False),
    ("delete", "", "secrets", False),
    ("list", "", "pods", True),
    ("watch", "", "pods", False),
    ("create", "", "pods", False),
    ("create", "", "pods/exec", False),
    ("create", "", "events", True),
    ("create", "rbac.authorization.k8s.io", "rolebindings", False),
    ("list", "", "nodes", False),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with api_server(tmp_path_factory.mktemp("chart-api-server")) as cluster:
        for name in (NAMESPACE, "served", "foreign"):
            cluster.kubectl("create", "namespace", name)
        yield cluster


@pytest.fixture
def release(server: Cluster) -> Iterator[Cluster]:
    """The chart, installed with its defaults."""
    _install(server)
    yield server
    _remove(server)


@pytest.fixture
def narrow_release(server: Cluster) -> Iterator[Cluster]:
    """The chart, installed for one namespace."""
    _install(server, "--set", "watchNamespaces={served}")
    yield server
    _remove(server)


def test_the_operator_may_do_what_it_needs_in_every_namespace_and_no_more(release: Cluster) -> None:
    for namespace in (NAMESPACE, "served", "foreign"):
        assert _rights(release, namespace) == RIGHTS


def test_narrowing_the_watch_narrows_the_grant(narrow_release: Cluster) -> None:
    assert _rights(narrow_release, "served") == RIGHTS
    assert not any(allowed for *_, allowed in _rights(narrow_release, "foreign"))
    assert _allowed(
        narrow_release,
        {"verb": "list", "resource": "namespaces"},
        {"verb": "list", "group": "apiextensions.k8s.io", "resource": "customresourcedefinitions"},
        {"verb": "list", "group": MARTY, "resource": "sagas"},
    ) == [False, False, False]


def test_a_narrow_operator_still_keeps_its_hash_key(narrow_release: Cluster) -> None:
    own: Attributes = {"namespace": NAMESPACE, "resource": "secrets"}

    assert _allowed(
        narrow_release,
        own | {"verb": "create"},
        own | {"verb": "get", "name": "marty-operator-hash-key"},
        own | {"verb": "get", "name": "something-else"},
        own | {"verb": "patch", "name": "something-else"},
    ) == [True, True, False, False]


def test_uninstall_keeps_definitions_and_resources_and_a_new_install_takes_them_up(server: Cluster) -> None:
    _install(server)

    server.helm("uninstall", "marty", "-n", NAMESPACE)
    kept = _definitions(server)
    _install(server)
    _remove(server)

    assert kept == CRDS


def test_uninstall_removes_the_definitions_when_asked(server: Cluster) -> None:
    _install(server, "--set", "crds.keep=false")

    server.helm("uninstall", "marty", "-n", NAMESPACE, "--wait")

    assert _definitions(server) == set()


def test_an_upgrade_brings_changed_definitions(release: Cluster) -> None:
    crd = "crd/sagas.consistency.marty.dev"
    drop = '[{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/2"}]'
    release.kubectl("patch", crd, "--type=json", "-p", drop)

    release.helm("upgrade", "marty", CHART, "-n", NAMESPACE)

    columns = release.get(crd)["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns][:4] == ["Ready", "State", "Active", "Completed"]


def test_definitions_can_be_left_to_others(server: Cluster) -> None:
    server.helm("install", "marty", CHART, "-n", NAMESPACE, "--set", "crds.enabled=false")
    found = _definitions(server)
    server.helm("uninstall", "marty", "-n", NAMESPACE)

    assert found == set()


def _install(server: Cluster, *arguments: str) -> None:
    server.helm("install", "marty", CHART, "-n", NAMESPACE, *arguments)
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", *sorted(CRDS))


def _remove(server: Cluster) -> None:
    """Uninstall and delete the definitions that the chart keeps, so that no test sees another's."""
    server.helm("uninstall", "marty", "-n", NAMESPACE)
    server.kubectl("delete", "--ignore-not-found", "--timeout=60s", *sorted(CRDS))


def _definitions(server: Cluster) -> set[str]:
    names = server.kubectl("get", "crd", "-o", "name").stdout.split()
    return {f"crd/{name.rpartition('/')[2]}" for name in names if name.endswith(".consistency.marty.dev")}


def _rights(server: Cluster, namespace: str) -> list[tuple[str, str, str, bool]]:
    """RIGHTS as they are in one namespace."""
    asked = [(verb, group, resource) for verb, group, resource, _ in RIGHTS]
    allowed = _allowed(
        server,
        *(
            {"verb": verb, "group": group, "resource": name, "subresource": subresource, "namespace": namespace}
            for verb, group, resource in asked
            for name, _, subresource in [resource.partition("/")]
        ),
    )
    return [(*one, answer) for one, answer in zip(asked, allowed, strict=True)]


def _allowed(server: Cluster, *asked: Attributes) -> list[bool]:
    """One review for each question, all in one call."""
    reviews = "\n---\n".join(
        json.dumps(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {"user": OPERATOR, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes},
            }
        )
        for attributes in asked
    )
    answer = server.kubectl("create", "-f", "-", "-o", "jsonpath={.status.allowed}{'\\n'}", input=reviews)
    return [line == "true" for line in answer.stdout.split()]
