"""What the installed chart lets the operator and people do, and what becomes of the definitions when it goes.

On an API server of its own, because installing and removing definitions would disturb every other test.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import api_server
from tests.support.cluster import Cluster

CHART = str(Path(__file__).parents[2] / "charts/marty-operator")
NAMESPACE = "marty-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:marty-operator"
CRDS = {
    "crd/sagas.consistency.marty.dev",
    "crd/outboxrelays.consistency.marty.dev",
    "crd/projections.consistency.marty.dev",
}
EVERYWHERE = [
    ("list", "sagas.consistency.marty.dev", True),
    ("watch", "projections.consistency.marty.dev", True),
    ("patch", "outboxrelays.consistency.marty.dev/status", True),
    ("patch", "sagas.consistency.marty.dev", False),
    ("delete", "sagas.consistency.marty.dev", False),
    ("patch", "deployments.apps", True),
    ("get", "secrets", True),
    ("create", "secrets", True),
    ("list", "secrets", False),
    ("watch", "secrets", False),
    ("delete", "secrets", False),
    ("list", "pods", True),
    ("watch", "pods", False),
    ("create", "pods", False),
    ("create", "pods/exec", False),
    ("create", "jobs.batch", True),
    ("delete", "jobs.batch", True),
    ("create", "events", True),
    ("create", "rolebindings.rbac.authorization.k8s.io", False),
    ("list", "nodes", False),
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


@pytest.mark.parametrize("namespace", [NAMESPACE, "served", "foreign"])
def test_the_operator_may_do_what_it_needs_in_every_namespace_and_no_more(release: Cluster, namespace: str) -> None:
    assert _rights(release, OPERATOR, namespace) == EVERYWHERE


def test_narrowing_the_watch_narrows_the_grant(narrow_release: Cluster) -> None:
    assert _rights(narrow_release, OPERATOR, "served") == EVERYWHERE
    assert not any(allowed for _, _, allowed in _rights(narrow_release, OPERATOR, "foreign"))
    assert not _may(narrow_release, OPERATOR, "list", "namespaces")
    assert not _may(narrow_release, OPERATOR, "list", "customresourcedefinitions.apiextensions.k8s.io")


def test_a_narrow_operator_still_keeps_its_hash_key(narrow_release: Cluster) -> None:
    assert _may(narrow_release, OPERATOR, "create", "secrets", "-n", NAMESPACE)
    assert _may(narrow_release, OPERATOR, "patch", "secrets/marty-operator-hash-key", "-n", NAMESPACE)
    assert not _may(narrow_release, OPERATOR, "get", "secrets/something-else", "-n", NAMESPACE)


def test_uninstall_keeps_definitions_and_resources_and_a_new_install_takes_them_up(server: Cluster) -> None:
    _install(server)
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", *sorted(CRDS))

    server.helm("uninstall", "marty", "-n", NAMESPACE)
    kept = _definitions(server)
    _install(server)
    _remove(server)

    assert kept == CRDS


def test_uninstall_removes_the_definitions_when_asked(server: Cluster) -> None:
    _install(server, "--set", "crds.keep=false")
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", *sorted(CRDS))

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


def _remove(server: Cluster) -> None:
    """Uninstall and delete the definitions that the chart keeps, so that no test sees another's."""
    server.helm("uninstall", "marty", "-n", NAMESPACE)
    server.kubectl("delete", "--ignore-not-found", *sorted(CRDS))


def _definitions(server: Cluster) -> set[str]:
    names = server.kubectl("get", "crd", "-o", "name").stdout.split()
    return {f"crd/{name.rpartition('/')[2]}" for name in names if name.endswith(".consistency.marty.dev")}


def _rights(server: Cluster, who: str, namespace: str) -> list[tuple[str, str, bool]]:
    return [
        (verb, resource, _may(server, who, verb, *resource.split("/")[:1], *_subresource(resource), "-n", namespace))
        for verb, resource, _ in EVERYWHERE
    ]


def _subresource(resource: str) -> list[str]:
    _, found, name = resource.partition("/")
    return [f"--subresource={name}"] if found else []


def _may(server: Cluster, who: str, verb: str, resource: str, *arguments: str) -> bool:
    answer = server.kubectl("auth", "can-i", verb, resource, f"--as={who}", *arguments, check=False)
    return answer.stdout.strip() == "yes"
