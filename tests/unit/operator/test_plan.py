"""What a resource needs in the cluster, as manifests."""

import json
from dataclasses import replace
from typing import Any

import pytest

from marty_msf.core import worker_config
from marty_msf.core.resources.spec import SecretKeyRef
from marty_operator.plan import labels
from marty_operator.plan.migration import migration_job, migration_name
from marty_operator.plan.workload import CONFIG_FILE, deployment, image_of, objects, token_secret, wanted_replicas
from marty_operator.validation import parse_spec
from tests.unit.operator.examples import IMAGE, KAFKA, KINDS, desired, resource


def template(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_everything_belongs_to_its_resource_and_can_be_found_again(kind: str) -> None:
    want = desired(kind)
    for manifest in [*objects(want), token_secret(want.key, want.owner_reference, "t")]:
        metadata = manifest["metadata"]
        assert metadata["ownerReferences"] == [want.owner_reference]
        assert metadata["namespace"] == "shop"
        assert labels.selector(want.key).items() <= metadata["labels"].items()
    assert want.owner_reference["controller"] is True


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Saga", ["ServiceAccount", "ConfigMap", "Service", "Deployment"]),
        ("OutboxRelay", ["ServiceAccount", "ConfigMap", "Deployment"]),
        ("Projection", ["ServiceAccount", "ConfigMap", "Deployment"]),
    ],
)
def test_what_pods_need_is_applied_before_them(kind: str, expected: list[str]) -> None:
    assert [manifest["kind"] for manifest in objects(desired(kind))] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_map_holds_what_the_worker_parses(kind: str) -> None:
    want = desired(kind)
    text = next(m for m in objects(want) if m["kind"] == "ConfigMap")["data"][CONFIG_FILE]
    assert worker_config.parse(text) == want.config
    assert worker_config.revision(worker_config.parse(text)) == want.revision


def pods(kind: str) -> list[dict[str, Any]]:
    job = migration_job("shop", "marty-migrate-0", SecretKeyRef(name="shop-db"), IMAGE)
    return [template(deployment(desired(kind)))["spec"], template(job)["spec"]]


@pytest.mark.parametrize("kind", KINDS)
def test_pods_meet_the_restricted_pod_security_level(kind: str) -> None:
    for pod in pods(kind):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        for volume in pod["volumes"]:
            assert volume.keys() <= {"name", "emptyDir", "configMap"}


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_reach_pods_by_reference_only(kind: str) -> None:
    for pod in pods(kind):
        env = {item["name"]: item for item in pod["containers"][0]["env"]}
        assert env["MARTY_DATABASE_URL"]["valueFrom"] == {"secretKeyRef": {"name": "shop-db", "key": "uri"}}
        assert all("value" not in item for item in env.values())


HEADERS = [{"name": name, "secretRef": {"name": "pay", "key": name.lower()}} for name in ("X-B", "X-A")]
HTTP = {"url": "https://pay.example/charge", "headersFrom": HEADERS, "tls": {"caSecretRef": {"name": "authority"}}}
CHARGE = {"name": "charge", "service": "payment", "action": "charge", "call": {"http": HTTP}}


def test_the_redis_of_cached_steps_is_a_file_of_the_pods() -> None:
    redis = {"redis": {"urlSecretRef": {"name": "shop-redis"}}}
    pod = template(deployment(desired(stepCache=redis)))["spec"]

    volume = next(volume for volume in pod["volumes"] if volume["name"] == "secrets")
    items = [{"key": "uri", "path": "shop-redis/uri"}]
    assert volume["projected"]["sources"] == [{"secret": {"name": "shop-redis", "items": items}}]


def test_secrets_of_steps_are_files_of_the_pods_and_stand_in_nothing_else() -> None:
    pod = template(deployment(desired(steps=[CHARGE])))["spec"]

    volume = next(volume for volume in pod["volumes"] if volume["name"] == "secrets")
    keys = [{"key": "x-a", "path": "pay/x-a"}, {"key": "x-b", "path": "pay/x-b"}]
    assert volume["projected"]["sources"] == [
        {"secret": {"name": "authority", "items": [{"key": "ca.crt", "path": "authority/ca.crt"}]}},
        {"secret": {"name": "pay", "items": keys}},
    ]
    mount = {"name": "secrets", "mountPath": "/etc/marty-secrets", "readOnly": True}
    assert mount in pod["containers"][0]["volumeMounts"]


SCRAM = {"type": "scram-sha-512", "secretRef": {"name": "shop-user"}}
TLS = {"trustedCertificates": [{"secretName": "main-cluster-ca-cert"}]}


def sources(kind: str, **kafka: Any) -> list[dict[str, Any]]:
    pod = template(deployment(desired(kind, kafka={**KAFKA, **kafka})))["spec"]
    mount = {"name": "secrets", "mountPath": "/etc/marty-secrets", "readOnly": True}
    assert mount in pod["containers"][0]["volumeMounts"]
    volume = next(volume for volume in pod["volumes"] if volume["name"] == "secrets")
    return [source["secret"] for source in volume["projected"]["sources"]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_login_to_kafka_and_its_authorities_are_files_of_the_pods_of_every_kind(kind: str) -> None:
    name = {"name": "shop-user", "items": [{"key": "username", "path": "shop-user/username"}], "optional": True}
    assert sources(kind, tls=TLS, authentication=SCRAM) == [
        {"name": "main-cluster-ca-cert", "items": [{"key": "ca.crt", "path": "main-cluster-ca-cert/ca.crt"}]},
        {"name": "shop-user", "items": [{"key": "password", "path": "shop-user/password"}]},
        name,
    ], "a KafkaUser of Strimzi has no key username: the pods must start without it"


def test_a_user_name_in_the_spec_is_not_looked_for_in_the_secret() -> None:
    found = sources("OutboxRelay", authentication={**SCRAM, "type": "plain", "username": "shop"})
    assert found == [{"name": "shop-user", "items": [{"key": "password", "path": "shop-user/password"}]}]


def test_a_client_certificate_and_its_key_are_files_of_the_pods() -> None:
    (found,) = sources("Projection", tls={}, authentication={"type": "tls", "secretRef": {"name": "shop-user"}})
    assert [item["path"] for item in found["items"]] == ["shop-user/user.crt", "shop-user/user.key"]


OWN_CODE: dict[str, Any] = {
    "runtime": {"image": "registry.example/shop:7", "handlers": "handlers", "codeConfigMapRef": {"name": "code"}},
}


def test_the_code_of_the_user_is_mounted_and_rolls_the_pods() -> None:
    pod = template(deployment(desired(**OWN_CODE)))["spec"]
    one, two = (template(deployment(replace(desired(**OWN_CODE), code_hash=text))) for text in ("1" * 16, "2" * 16))

    assert {"name": "code", "configMap": {"name": "code"}} in pod["volumes"]
    assert {"name": "code", "mountPath": "/etc/marty-code", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert pod["containers"][0]["args"][-2:] == ["--code", "/etc/marty-code"]
    assert one != two


def test_the_image_of_the_user_is_for_the_workers_only() -> None:
    parsed = parse_spec(resource(**OWN_CODE).key, resource(**OWN_CODE).spec)

    assert image_of(parsed, IMAGE).fields == {"image": "registry.example/shop:7"}
    assert image_of(parse_spec(resource().key, resource().spec), IMAGE) == IMAGE


def test_scaling_does_not_roll_the_pods() -> None:
    one, many = deployment(desired(replicas=1)), deployment(desired(replicas=9))
    assert (one["spec"]["replicas"], many["spec"]["replicas"]) == (1, 9)
    assert template(one) == template(many)


@pytest.mark.parametrize(
    "change", [{"workers": 11}, {"timeoutSeconds": 7}, {"database": {"urlSecretRef": {"name": "other"}}}]
)
def test_an_edit_rolls_the_pods(change: dict[str, Any]) -> None:
    assert template(deployment(desired(**change))) != template(deployment(desired()))


def test_a_rotated_secret_rolls_the_pods() -> None:
    assert template(deployment(desired(secrets_hash="1" * 16))) != template(deployment(desired(secrets_hash="2" * 16)))


@pytest.mark.parametrize(("state", "expected"), [("Running", 2), ("Paused", 2), ("Stopped", 0)])
def test_only_stopped_means_no_pods(state: str, expected: int) -> None:
    made = resource(state=state)
    assert wanted_replicas(parse_spec(made.key, made.spec)) == expected


def test_paused_is_told_to_the_workers() -> None:
    assert json.loads(worker_config.render(desired(state="Paused").config))["spec"]["state"] == "Paused"


def test_a_roll_never_takes_a_worker_away_before_its_successor_is_ready() -> None:
    strategy = deployment(desired())["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}


def test_the_same_spec_gives_the_same_manifests() -> None:
    assert objects(desired()) == objects(desired())


def test_the_migration_job_is_shared_owned_by_nobody_and_goes_by_itself() -> None:
    job = migration_job("shop", migration_name("abcdef0123456789ff"), SecretKeyRef(name="shop-db"), IMAGE)
    assert job["metadata"]["name"] == "marty-migrate-abcdef0123456789"
    assert "ownerReferences" not in job["metadata"]
    limits = {name: job["spec"][name] for name in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")}
    assert limits == {"backoffLimit": 0, "activeDeadlineSeconds": 900, "ttlSecondsAfterFinished": 600}
    assert template(job)["spec"]["containers"][0]["args"][0] == "migrate"
    assert labels.NAME not in job["metadata"]["labels"], "its pods must not count as workers"
