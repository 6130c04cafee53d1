"""The small pure parts between the API server and the reconciler."""

import base64
from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_operator.applied import mark
from marty_operator.freshness import WatchedGenerations
from marty_operator.handlers import owner
from marty_operator.health import BLIND_SECONDS, LAG_SECONDS, STUCK_SECONDS, Vitals, complaints
from marty_operator.observation import MigrationPhase, Pod, migration_state
from marty_operator.resource import Key
from marty_operator.secrets import Hasher, value
from marty_operator.settings import Settings
from tests.unit.operator.examples import desired

KEY = Key("Saga", "shop", "orders")


def test_settings_come_from_the_environment() -> None:
    settings = Settings.from_environment(
        {"MARTY_RUNTIME_IMAGE": "r:1", "MARTY_WATCH_NAMESPACES": "b, a,,b", "HOME": "/"}
    )
    assert settings.namespaces == ("a", "b")
    assert settings.runtime_image == "r:1"


@pytest.mark.parametrize(
    ("environment", "variable"),
    [({}, "MARTY_RUNTIME_IMAGE"), ({"MARTY_RUNTIME_IMAGE": "r", "MARTY_LOG_LEVEL": "LOUD"}, "MARTY_LOG_LEVEL")],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], variable: str) -> None:
    with pytest.raises(InvalidDefinition, match=variable):
        Settings.from_environment(environment)


def pod(**status: Any) -> dict[str, Any]:
    labels = {"marty.dev/kind": "Saga", "marty.dev/name": "orders"}
    return {"metadata": {"name": "p", "namespace": "shop", "labels": labels}, "status": {"podIP": "10.0.0.1", **status}}


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "worker", "ready": False, **state}]


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        ({}, ""),
        ({"containerStatuses": container(state={"waiting": {"reason": "ContainerCreating"}})}, ""),
        (
            {"containerStatuses": container(state={"waiting": {"reason": "ErrImagePull", "message": "no"}})},
            "ErrImagePull: no",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full"}]},
            "Unschedulable: full",
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "disk"}, "Evicted: disk"),
    ],
)
def test_a_pod_tells_why_it_cannot_run(status: dict[str, Any], trouble: str) -> None:
    parsed = Pod.parse(pod(**status))
    assert parsed is not None
    assert parsed.trouble == trouble


def test_a_crashing_pod_says_the_same_while_it_waits_and_while_it_tries() -> None:
    last = {"lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}
    waiting = Pod.parse(pod(containerStatuses=container(**last, state={"waiting": {"reason": "CrashLoopBackOff"}})))
    trying = Pod.parse(pod(containerStatuses=container(**last, state={"running": {}})))
    assert waiting == trying
    assert waiting is not None
    assert "exit code 3" in waiting.trouble


def test_pods_that_go_away_do_not_count() -> None:
    going = pod()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert Pod.parse(going) is None
    assert Pod.parse(pod(phase="Succeeded")) is None


@pytest.mark.parametrize(
    ("condition", "phase"),
    [("Complete", MigrationPhase.DONE), ("Failed", MigrationPhase.FAILED), ("Suspended", MigrationPhase.RUNNING)],
)
def test_a_job_tells_how_it_stands(condition: str, phase: MigrationPhase) -> None:
    job = {"metadata": {"name": "j"}, "status": {"conditions": [{"type": condition, "status": "True"}]}}
    found = migration_state(job)
    assert found.phase is phase
    assert found.job == ("j" if phase is MigrationPhase.FAILED else "")


def test_a_missing_job_is_about_to_run() -> None:
    assert migration_state(None).phase is MigrationPhase.RUNNING


def test_hashes_need_the_key_and_keep_parts_apart() -> None:
    first, second = Hasher(b"1"), Hasher(b"2")
    assert first("url") == first("url") != second("url")
    assert first("ab", "c") != first("a", "bc")


@pytest.mark.parametrize(
    ("data", "expected"),
    [({}, ""), ({"uri": "!"}, ""), ({"uri": base64.b64encode(b"\xff").decode()}, ""), ({"uri": "eA=="}, "x")],
)
def test_a_secret_that_is_no_text_counts_as_missing(data: dict[str, str], expected: str) -> None:
    assert value({"data": data}, "uri") == expected


def test_an_owned_object_leads_to_its_resource() -> None:
    reference = {**desired().owner_reference}
    assert owner({"metadata": {"namespace": "shop", "ownerReferences": [reference]}}) == KEY
    labels = {"marty.dev/kind": "Saga", "marty.dev/name": "orders"}
    assert owner({"metadata": {"namespace": "shop", "labels": labels}}) == KEY
    assert owner({"metadata": {"namespace": "shop", "labels": {"app": "x"}}}) is None


def test_a_status_change_of_a_deployment_is_no_drift() -> None:
    one = {"metadata": {"uid": "u", "generation": 2, "resourceVersion": "5"}}
    two = {"metadata": {"uid": "u", "generation": 2, "resourceVersion": "6"}}
    edited = {"metadata": {"uid": "u", "generation": 3, "resourceVersion": "7"}}
    assert mark(one) == mark(two) != mark(edited)


def test_a_config_map_drifts_with_its_resource_version() -> None:
    assert mark({"metadata": {"uid": "u", "resourceVersion": "5"}}) != mark(
        {"metadata": {"uid": "u", "resourceVersion": "6"}}
    )


def test_a_watch_that_owes_an_edit_is_found_out() -> None:
    watched = WatchedGenerations()
    assert watched.show(KEY, 1)
    assert not watched.show(KEY, 1), "a status write tells nothing new"
    assert watched.behind_seconds({KEY: 1}, 10) == 0
    assert watched.behind_seconds({KEY: 2}, 20) == 0
    assert watched.behind_seconds({KEY: 2}, 50) == 30
    watched.show(KEY, 2)
    assert watched.behind_seconds({KEY: 2}, 60) == 0


def test_a_deleted_resource_owes_nothing() -> None:
    watched = WatchedGenerations()
    watched.show(KEY, 1)
    assert watched.show(KEY, None)
    assert watched.behind_seconds({}, 100) == 0


@pytest.mark.parametrize(
    ("vitals", "count"),
    [
        (Vitals(0, 0, 0, True, 0), 0),
        (Vitals(STUCK_SECONDS + 1, 0, 0, True, 0), 1),
        (Vitals(0, BLIND_SECONDS + 1, 0, True, 0), 1),
        (Vitals(0, 0, LAG_SECONDS + 1, False, 9), 1),
    ],
)
def test_health_complains_about_what_a_restart_mends(vitals: Vitals, count: int) -> None:
    assert len(complaints(vitals)) == count
