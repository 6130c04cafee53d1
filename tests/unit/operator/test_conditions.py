"""From what is seen to the four conditions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marty_msf.core.resources.spec import RunState
from marty_msf.core.worker_status import Problem, ProblemReason
from marty_operator.conditions import CONFIG_APPLIED, READY, RECONCILING, STALLED, merged, verdicts
from marty_operator.observation import Blocker, Migration, MigrationPhase, Observed, Reason
from tests.unit.operator.examples import NO_DATABASE, NO_TOPIC, OWNED, POISON, observed, worker

BAD_SPEC = Blocker(Reason.INVALID_SPEC, "spec.steps[0].condition: 'a &&' is no CEL: correct it", stalled=True)
NO_SECRET = Blocker(Reason.SECRET_NOT_FOUND, "spec.database.urlSecretRef: Secret 'shop-db' does not exist")
MIGRATING = Migration(MigrationPhase.RUNNING)
FAILED = Migration(MigrationPhase.FAILED, "BackoffLimitExceeded", "marty-migrate-0")
NO_TRIGGER = Problem(
    reason=ProblemReason.TOPIC_UNAVAILABLE, message="topic orders is missing", blocking=False, unmet=True
)
OUTDATED = Problem(reason=ProblemReason.SCHEMA_OUTDATED, message="schema is at 0, needs 4: marty migrate")
STARTING = Problem(reason=ProblemReason.STARTING, message="first contact")

# Each row: what is seen; then Ready, Reconciling, Stalled and ConfigApplied as "status reason" (or only the status).
TABLE: dict[str, tuple[Observed, str, str, str, str]] = {
    "all is well": (
        observed(worker(), worker(), replicas=2),
        "True WorkersReady", "False Settled", "False", "True AllWorkers",
    ),
    "no pod yet": (observed(), "False WorkersStarting", "True RollingOut", "False", "False RollingOut"),
    "pod starts": (
        observed(worker(ready=False, silent=True)),
        "False WorkersStarting", "True RollingOut", "False", "False",
    ),
    "worker starts": (observed(worker(STARTING, ready=False)), "False Starting", "False", "False", "True"),
    "a roll under way": (
        observed(worker(revision="rev-old"), worker(ready=False)),
        "True WorkersReady", "True RollingOut", "False", "False RollingOut",
    ),
    "one of two ready": (
        observed(worker(), worker(ready=False, silent=True), replicas=2),
        "True WorkersReady", "True RollingOut", "False", "False",
    ),
    "ready but unreachable": (
        observed(worker(silent=True)),
        "True WorkersReady", "True", "False", "Unknown WorkersUnreachable",
    ),
    "image cannot be pulled": (
        observed(worker(ready=False, silent=True, trouble="ErrImagePull: no such image")),
        "False PodsFailing", "True", "False", "False",
    ),
    "quota allows no pod": (
        observed(trouble='pods "x" is forbidden: exceeded quota'),
        "False PodsFailing pods", "True", "False", "False",
    ),
    "database refuses": (observed(worker(NO_DATABASE, ready=False)), "False DatabaseUnavailable", "False", "False", "True"),
    "database refuses before readiness noticed": (
        observed(worker(NO_DATABASE)),
        "False DatabaseUnavailable", "False", "False", "True",
    ),
    "one worker of two cannot work": (
        observed(worker(NO_DATABASE, ready=False), worker(), replicas=2),
        "True WorkersReady", "False", "False", "True",
    ),
    "a problem that blocks nothing": (observed(worker(NO_TOPIC)), "True WorkersReady", "False", "False", "True"),
    "a trigger stands still": (
        observed(worker(NO_TRIGGER), worker(), replicas=2),
        "False TopicUnavailable topic orders is missing", "False Settled", "False", "True AllWorkers",
    ),
    "poison event": (observed(worker(POISON)), "True WorkersReady", "False", "True PoisonEvent", "True"),
    "outbox owned": (
        observed(worker(OWNED, ready=False)),
        "False OutboxOwned", "False", "True OutboxOwned", "True",
    ),
    "first spec is invalid": (
        observed(replicas=0, revision="", blocker=BAD_SPEC),
        "False InvalidSpec", "False InvalidSpec", "True InvalidSpec", "False InvalidSpec",
    ),
    "an edit is invalid": (
        observed(worker(), blocker=BAD_SPEC),
        "True WorkersReady", "False InvalidSpec", "True InvalidSpec", "False InvalidSpec",
    ),
    "an edit of a stopped resource is invalid": (
        observed(replicas=0, state=RunState.STOPPED, blocker=BAD_SPEC),
        "True Stopped", "False", "True InvalidSpec", "False",
    ),
    "secret missing": (
        observed(blocker=NO_SECRET),
        "False SecretNotFound", "True SecretNotFound", "False", "False SecretNotFound",
    ),
    "secret deleted while workers run": (
        observed(worker(), blocker=NO_SECRET),
        "True WorkersReady", "True SecretNotFound", "False", "False",
    ),
    "migrating": (
        observed(worker(OUTDATED, ready=False), migration=MIGRATING),
        "False SchemaOutdated", "True Migrating", "False", "True",
    ),
    "migrating, no worker yet": (observed(migration=MIGRATING), "False Migrating", "True Migrating", "False", "False"),
    "migration failed": (
        observed(worker(OUTDATED, ready=False), migration=FAILED),
        "False MigrationFailed", "True MigrationFailed", "False", "True",
    ),
    "migration failed because the database refuses": (
        observed(worker(NO_DATABASE, ready=False), migration=FAILED),
        "False DatabaseUnavailable", "True MigrationFailed", "False", "True",
    ),
    "stopped": (observed(replicas=0, state=RunState.STOPPED), "True Stopped", "False Settled", "False", "True Stopped"),
    "stopping": (
        observed(worker(), replicas=0, state=RunState.STOPPED),
        "True Stopped", "True RollingOut", "False", "False",
    ),
    "scaled to zero": (observed(replicas=0), "True ScaledToZero", "False", "False", "True ScaledToZero"),
    "paused": (observed(worker(), state=RunState.PAUSED), "True Paused", "False", "False", "True AllWorkers"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_conditions_say_what_is_so(name: str) -> None:
    seen, *expected = TABLE[name]
    found = verdicts(seen)
    assert [v.type for v in found] == [READY, RECONCILING, STALLED, CONFIG_APPLIED]
    for verdict, wanted in zip(found, expected, strict=True):
        assert f"{verdict.status} {verdict.reason} {verdict.message}".startswith(wanted), verdict
        assert verdict.message


def test_an_invalid_edit_names_what_keeps_running() -> None:
    stalled = verdicts(observed(worker(), blocker=BAD_SPEC))[2]
    assert stalled.message == f"{BAD_SPEC.message}; revision rev-new keeps running."


def test_a_ready_resource_still_tells_its_problem() -> None:
    assert "topic audit is missing" in verdicts(observed(worker(NO_TOPIC)))[0].message


@given(st.lists(st.sampled_from(sorted(TABLE)), min_size=2, max_size=6))
def test_a_time_changes_exactly_when_a_status_does(names: list[str]) -> None:
    conditions: list[dict[str, object]] = []
    for second, name in enumerate(names):
        before = {c["type"]: c for c in conditions}
        conditions = merged(verdicts(TABLE[name][0]), conditions, second, f"time {second}")
        for condition in conditions:
            old = before.get(condition["type"])
            same = old is not None and old["status"] == condition["status"]
            kept = old["lastTransitionTime"] if old else None
            assert condition["lastTransitionTime"] == (kept if same else f"time {second}")
            assert condition["observedGeneration"] == second


def test_a_failed_migration_names_the_job_whose_log_tells_why() -> None:
    ready = verdicts(observed(worker(OUTDATED, ready=False), migration=FAILED))[0]
    assert "kubectl logs job/marty-migrate-0" in ready.message
    assert "BackoffLimitExceeded" in ready.message
