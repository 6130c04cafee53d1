"""The demo's pure parts before the load: manifests, images, orders, passwords, processes."""

from pathlib import Path
from typing import Any

import pytest

from dev.demo.database import Passwords, of_database, password_in, secrets_for_pods
from dev.demo.deploy import MANIFESTS, SERVICES, all_workers_run
from dev.demo.diagnosis import condition_lines
from dev.demo.evidence import numbers_from_rows, shown_numbers
from dev.demo.facts import Instance, Published
from dev.demo.load import latency, order_bodies
from dev.demo.local import container_processes
from dev.demo.manifests import IMAGE_PLACE, read, with_image
from dev.demo.restarts import crashes, restart_counts
from dev.demo.run import product_images, server_images
from dev.demo.target import Images, Pod, ready_pod
from marty_msf.core.resources.kinds import KINDS
from shop.order import new_order


def test_the_image_is_put_into_every_service_and_the_original_stays() -> None:
    manifests = read(*SERVICES)

    placed = with_image(manifests, IMAGE_PLACE, "registry/marty-shop:1")

    def images(documents: list[dict[str, Any]]) -> set[str]:
        pods = [item["spec"]["template"]["spec"] for item in documents if item["kind"] == "Deployment"]
        return {container["image"] for pod in pods for container in pod["containers"]}

    assert images(placed) == {"registry/marty-shop:1"}
    assert images(manifests) == {IMAGE_PLACE}


def test_the_resources_of_the_shop_fit_their_models() -> None:
    for resource in read(*MANIFESTS):
        KINDS[resource["kind"]].spec.model_validate(resource["spec"])


def test_orders_are_valid_repeatable_and_about_one_in_ten_is_declined() -> None:
    bodies = order_bodies(200)

    assert [new_order(body).quantity for body in bodies]
    assert bodies == order_bodies(200)
    assert 14 <= sum(body["card_token"].endswith("0") for body in bodies) <= 26


def test_the_secrets_carry_the_passwords_and_nothing_shows_them() -> None:
    passwords = Passwords.generate()
    urls = secrets_for_pods(passwords)

    assert (password_in(urls["shop-db"]), password_in(urls["marty-db"])) == (passwords.shop, passwords.marty)
    assert passwords.shop not in repr(passwords)


def test_a_url_without_password_is_refused() -> None:
    with pytest.raises(ValueError, match="no password"):
        password_in("postgresql://shop@postgres:5432/shop")


def test_another_database_of_the_same_server() -> None:
    assert of_database("postgresql://a:b@127.0.0.1:15432/postgres") == "postgresql://a:b@127.0.0.1:15432/shop"


def test_images_come_from_the_caller_or_from_this_machine() -> None:
    built = {"operator": "localhost/marty-operator:1", "runtime": "localhost/marty-runtime:2", "shop": "s"}

    assert product_images({}, built) == Images("localhost/marty-operator:1", "localhost/marty-runtime:2", "s")
    assert product_images({"IMAGE_PREFIX": "reg/team/", "IMAGE_TAG": "7"}, built).runtime == "reg/team/marty-runtime:7"
    with pytest.raises(ValueError, match="IMAGE_PREFIX"):
        product_images({}, {})


def test_server_images_are_the_callers_then_built_ones_then_public_ones() -> None:
    assert server_images({"IMAGE_KAFKA": "own/kafka:4"}, {}) == {
        "marty-postgres": "postgres:15",
        "marty-kafka": "own/kafka:4",
    }
    assert server_images({}, {"postgres": "localhost/marty-postgres:dev"})["marty-postgres"].startswith("localhost/")


def test_latency_is_the_median_and_the_95th_of_100() -> None:
    found = latency([number / 1000 for number in range(1, 101)])

    assert (found.median_ms, found.p95_ms, found.longest_ms) == (50.5, 96.0, 100.0)


def test_numbers_are_counted_from_rows() -> None:
    states = ["Completed", "Completed", "Compensated", "Parked", "Running", "Compensating"]
    instances = [Instance(str(number), state) for number, state in enumerate(states)]
    published = [Published(0, 0, "e1", "o"), Published(0, 1, "e2", "o"), Published(0, 2, "e1", "o")]

    assert numbers_from_rows(instances, 3, published) == {
        "Saga order-processing active": 2,
        "Saga order-processing completed": 2,
        "Saga order-processing compensated": 1,
        "Saga order-processing parked": 1,
        "OutboxRelay shop pending": 1,
        "OutboxRelay shop publishedTotal": 3,
        "Projection order-summary processedTotal": 2,
        "Projection order-summary duplicatesTotal": 1,
        "Projection order-summary lag": 0,
    }


def test_the_status_gives_the_same_numbers_and_leaves_out_what_is_missing() -> None:
    resources = [
        {
            "kind": "OutboxRelay",
            "metadata": {"name": "shop"},
            "status": {"pending": 0, "publishedTotal": 4, "lag": "0s"},
        },
        {"kind": "Projection", "metadata": {"name": "order-summary"}},
    ]

    assert shown_numbers(resources) == {"OutboxRelay shop pending": 0, "OutboxRelay shop publishedTotal": 4}


def pod(*, ready: bool = True, **metadata: str) -> dict[str, Any]:
    container = {"ready": ready, "containerID": "containerd://abc", "restartCount": 1}
    return {"metadata": {"name": "p", **metadata}, "status": {"containerStatuses": [container]}}


def test_a_pod_counts_once_it_is_ready_and_until_it_is_deleted() -> None:
    assert ready_pod(pod()) == Pod("p", "abc", 1)
    assert ready_pod(pod(ready=False)) is None
    assert ready_pod(pod(deletionTimestamp="2026-01-01T00:00:00Z")) is None
    assert ready_pod({"metadata": {"name": "p"}, "status": {}}) is None


def test_a_containers_processes_are_found_by_their_control_group(tmp_path: Path) -> None:
    for pid, group in {
        "31": "/kubepods/burstable/podu/abc",
        "7": "/kubepods/podu/abc",
        "9": "/kubepods/podu/abcd",
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(f"5:cpu:{group}\n1:name=systemd:/\n")
    (tmp_path / "40").mkdir()
    (tmp_path / "self").mkdir()

    assert container_processes("abc", tmp_path) == [7, 31]


def test_only_conditions_that_are_wrong_are_shown() -> None:
    conditions = [
        {"type": "Ready", "status": "False", "reason": "SecretNotFound", "message": "no Secret marty-db"},
        {"type": "Stalled", "status": "False"},
        {"type": "ConfigApplied", "status": "True"},
    ]

    assert condition_lines([{"kind": "Saga", "metadata": {"name": "s"}, "status": {"conditions": conditions}}]) == [
        "  Saga s Ready=False SecretNotFound: no Secret marty-db"
    ]


def worker(kind: str, image: str = "runtime:2", *, ready: bool = True) -> dict[str, Any]:
    item = pod(ready=ready)
    item["metadata"]["labels"] = {"marty.dev/kind": kind}
    return item | {"spec": {"containers": [{"image": image}]}}


def test_the_load_starts_when_every_worker_runs_the_wanted_image() -> None:
    workers = [worker("Saga"), worker("Saga"), worker("OutboxRelay"), worker("Projection")]

    assert all_workers_run(workers, "runtime:2")
    assert not all_workers_run([*workers, worker("Saga", "runtime:1")], "runtime:2")
    assert not all_workers_run([*workers, worker("Saga", ready=False)], "runtime:2")
    assert not all_workers_run(workers[:3], "runtime:2")


def restarted(name: str, count: int) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}} if count else {}
    return {"metadata": {"name": name}, "status": {"containerStatuses": [{"restartCount": count, "lastState": ended}]}}


def test_a_worker_that_ended_by_itself_is_told_from_a_killed_one() -> None:
    before = restart_counts([restarted("old", 2), restarted("killed", 1), restarted("quiet", 1)])
    after = [restarted("old", 3), restarted("killed", 2), restarted("quiet", 1), restarted("new", 0)]

    assert crashes(before, after, {"killed"}) == ("old: 1 times, the last time with exit code 137 (OOMKilled)",)
    assert len(crashes(before, after, set())) == 2
