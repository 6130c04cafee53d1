"""Brings the shop up on a target: operator, servers, database, services and the three resources."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dev.cluster.commands import run, without_proxies
from dev.cluster.errors import ClusterError
from dev.cluster.progress import Progress
from dev.demo import broker, database
from dev.demo.database import Passwords
from dev.demo.kubectl import Kubectl
from dev.demo.manifests import IMAGE_PLACE, NAMESPACE, read, restricted_namespace, secret, with_image
from dev.demo.target import OPERATOR_NAMESPACE, RESOURCES, WORKERS, Images, Servers, Target, ready_pod

CHART: Final = Path(__file__).resolve().parents[2] / "charts" / "marty-operator"
RELEASE: Final = "marty"
SERVICES: Final = ("order-service", "inventory-service", "payment-service")
MANIFESTS: Final = ("saga", "outbox-relay", "projection")
READY_SECONDS: Final = 180
POLL_SECONDS: Final = 0.3
CRD_SECONDS: Final = 30
#: Steps that `deploy` counts on its progress.
STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Shop:
    """A shop that is ready to take orders."""

    servers: Servers
    url: str


async def deploy(target: Target, progress: Progress) -> Shop:
    """Everything Ready; what does not depend on each other runs side by side. Safe to repeat on a running shop."""
    images = await asyncio.to_thread(target.images)
    async with asyncio.TaskGroup() as group:
        operator = group.create_task(asyncio.to_thread(_install_operator, target, images, progress))
        servers = group.create_task(_servers(target, progress))
    await asyncio.to_thread(_apply_shop, target.kubectl, images, progress)
    await asyncio.to_thread(_await_ready, target.kubectl, images.runtime, progress)
    operator.result()
    return Shop(servers.result(), await asyncio.to_thread(target.url, "order-service"))


def _install_operator(target: Target, images: Images, progress: Progress) -> None:
    with progress.step("the operator (helm upgrade --install)"):
        target.kubectl.apply([restricted_namespace(OPERATOR_NAMESPACE)])
        settings = {"images.operator": images.operator, "images.runtime": images.runtime}
        values = [part for name, value in settings.items() for part in ("--set-string", f"{name}={value}")]
        command = ["upgrade", "--install", RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE, *values]
        run([*target.helm, *command], environment=without_proxies(os.environ))
        names = (f"crd/{plural}.consistency.marty.dev" for plural in ("sagas", "outboxrelays", "projections"))
        target.kubectl.await_condition("Established", CRD_SECONDS, *names)


async def _servers(target: Target, progress: Progress) -> Servers:
    """Postgres and Kafka with the shop's database, roles and topic; a new shop finds nothing of an older one."""
    with progress.step("Postgres and Kafka: database, roles, topic"):
        await asyncio.to_thread(target.kubectl.apply, read("namespace"))
        passwords = await asyncio.to_thread(_stored_passwords, target.kubectl)
        servers = await asyncio.to_thread(target.servers)
        if passwords is None:
            # The Secrets come last, so a start that was cut off begins anew.
            passwords = Passwords.generate()
            await database.drop(servers.admin_url)
            await asyncio.to_thread(broker.delete_topic, servers.bootstrap)
        await database.prepare(servers.admin_url, passwords)
        await asyncio.to_thread(broker.create_topic, servers.bootstrap)
        urls = database.secrets_for_pods(passwords)
        await asyncio.to_thread(target.kubectl.apply, [secret(name, {"uri": url}) for name, url in urls.items()])
    return servers


def _stored_passwords(kubectl: Kubectl) -> Passwords | None:
    """Those of the running shop, None when there is none."""
    urls = [kubectl.secret_value(name, "uri", NAMESPACE) for name in ("shop-db", "marty-db")]
    if None in urls:
        return None
    shop, marty = (database.password_in(url) for url in urls if url is not None)
    return Passwords(shop, marty)


def _apply_shop(kubectl: Kubectl, images: Images, progress: Progress) -> None:
    with progress.step("the shop: services and resources"):
        kubectl.apply(with_image(read(*SERVICES, *MANIFESTS), IMAGE_PLACE, images.shop))


def _await_ready(kubectl: Kubectl, runtime_image: str, progress: Progress) -> None:
    with progress.step("everything is Ready") as step:
        resources = [f"{kind.lower()}/{name}" for kind, name in RESOURCES.items()]
        kubectl.await_condition("Ready", READY_SECONDS, *resources, namespace=NAMESPACE)
        deployments = [f"deployment/{service}" for service in SERVICES]
        kubectl.await_condition("Available", READY_SECONDS, *deployments, namespace=NAMESPACE)
        # On a running shop Ready holds all along, while another image may still be on its way to the workers.
        deadline = time.monotonic() + READY_SECONDS
        while not all_workers_run(kubectl.items("pods", NAMESPACE, "-l", WORKERS), runtime_image):
            step.note("workers roll to the new image")
            if time.monotonic() > deadline:
                raise ClusterError(f"the workers did not all become ready with {runtime_image} in {READY_SECONDS} s")
            time.sleep(POLL_SECONDS)


def all_workers_run(pods: Sequence[Mapping[str, Any]], image: str) -> bool:
    """Whether each resource has workers and every one of them is ready and runs `image`. Pure."""
    kinds = {pod["metadata"]["labels"]["marty.dev/kind"] for pod in pods}
    return kinds == set(RESOURCES) and all(
        ready_pod(pod) is not None and pod["spec"]["containers"][0]["image"] == image for pod in pods
    )
