"""`marty saga` without a database URL: the Saga resource and its Secret, read from a real API server, say where to look."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from marty_msf.core.saga.definition import stored_form
from marty_msf.store import saga_instance
from tests.contract.resources import RELAY, SAGA
from tests.integration.saga.sagas import spec
from tests.support.cluster import Cluster
from tests.support.dead_letters import held
from tests.support.processes import running
from tests.support.space import Space

pytestmark = pytest.mark.postgres


class Place(NamedTuple):
    """A namespace with a Saga whose database is the test's own."""

    space: Space
    kubeconfig: Path
    directory: Path

    async def marty(self, *arguments: str, group: str = "saga") -> tuple[int, str]:
        """`marty GROUP ARGUMENTS`: exit code, and stdout with stderr."""
        environment = {"KUBECONFIG": str(self.kubeconfig), "MARTY_DATABASE_URL": ""}
        command = ["-m", "marty_msf.cli", group, *arguments]
        log = self.directory / secrets.token_hex(4)
        async with running(command, log, environment) as process:
            return await process.wait(), process.output()


@pytest.fixture
async def place(api: Cluster, postgres_url: str, conn: asyncpg.Connection, tmp_path: Path) -> Place:
    space = Space(api, f"test-{secrets.token_hex(4)}")
    await asyncio.to_thread(api.kubectl, "create", "namespace", space.namespace)
    await space.write_secret("db", "uri", postgres_url)
    saga = {**SAGA["spec"], "database": {"urlSecretRef": {"name": "db"}}}
    await space.apply("Saga", "orders", saga)
    resource = f"{space.namespace}/orders"
    await saga_instance.register_definition(conn, resource, "r1", stored_form(spec({"name": "reserve"})), 600)
    return Place(space, api.kubeconfig, tmp_path)


async def test_the_resource_leads_to_its_database(place: Place) -> None:
    namespace = place.space.namespace

    started = await place.marty("start", "orders", "--key", "order-1", "-n", namespace)
    listed = await place.marty("list", "orders", "-n", namespace, "-o", "json")
    everything = await place.marty("list", "-n", namespace, "-o", "json")

    assert started[0] == 0, started[1]
    assert [it["business_key"] for it in json.loads(listed[1])["instances"]] == ["order-1"]
    assert everything == listed
    instance = json.loads(listed[1])["instances"][0]["saga_id"]
    assert (await place.marty("get", instance, "-n", namespace))[0] == 0
    assert (await place.marty("get", instance, "--saga", f"{namespace}/orders"))[0] == 0


async def test_what_the_cluster_lacks_is_told_with_the_remedy(place: Place) -> None:
    namespace = place.space.namespace

    for arguments, text in [
        (("list", "nothing", "-n", namespace), f"Saga {namespace}/nothing: not found"),
        (("list", "orders"), "Saga default/orders: not found"),
        (("list", "-n", "nowhere"), "namespace nowhere has no Saga"),
        (("list", "--context", "nowhere"), "there is no database URL and no usable kubeconfig"),
    ]:
        code, output = await place.marty(*arguments)
        assert (code, "Traceback" in output) == (1, False), output
        assert text in output

    await place.space.write_secret("db", "uri", "postgresql://nobody@127.0.0.1:1/nothing")
    code, output = await place.marty("list", "orders", "-n", namespace)
    assert code == 1
    assert "its address may only be known inside the cluster" in output
    await place.space.kubectl("delete", "secret", "db")
    code, output = await place.marty("list", "orders", "-n", namespace)
    assert code == 1
    assert f"Secret {namespace}/db of Saga orders: not found" in output


async def test_dead_letters_are_found_through_the_relay(
    place: Place, postgres_url: str, conn: asyncpg.Connection
) -> None:
    namespace = place.space.namespace
    number = await held(conn)
    none = await place.marty("list", "-n", namespace, group="dlq")
    spec = {**RELAY["spec"], "database": {"urlSecretRef": {"name": "db"}}}
    await place.space.apply("OutboxRelay", "first", spec)
    await place.space.apply("OutboxRelay", "second", spec)

    redriven = await place.marty("redrive", str(number), "--yes", "-n", namespace, group="dlq")
    status = await place.marty("status", "--relay", f"{namespace}/first", "-o", "json", group="outbox")
    await place.space.write_secret("other", "uri", f"{postgres_url}?application_name=x")
    await place.space.apply("OutboxRelay", "second", {**spec, "database": {"urlSecretRef": {"name": "other"}}})
    several = await place.marty("list", "-n", namespace, group="dlq")
    missing = await place.marty("list", "--relay", "nothing", "-n", namespace, group="dlq")

    assert (none[0], f"namespace {namespace} has no OutboxRelay" in none[1]) == (1, True), none
    assert (redriven[0], redriven[1].strip()) == (0, "1 dead letter redriven.")
    assert json.loads(status[1])["held"] == 1
    assert (several[0], f"several ({namespace}/first, {namespace}/second): give --relay" in several[1]) == (1, True)
    assert (missing[0], f"OutboxRelay {namespace}/nothing: not found" in missing[1]) == (1, True), missing


async def test_the_whole_type_is_paused_and_resumed_through_its_resource(place: Place) -> None:
    namespace = place.space.namespace

    dry = await place.marty("pause", "--type", "orders", "-n", namespace, "--dry-run")
    assert (await place.space.find("saga", "orders"))["spec"]["state"] == "Running"
    paused = await place.marty("pause", "--type", "orders", "-n", namespace, "--yes")
    assert (await place.space.find("saga", "orders"))["spec"]["state"] == "Paused"
    resumed = await place.marty("resume", "--type", f"{namespace}/orders", "--yes")
    assert (await place.space.find("saga", "orders"))["spec"]["state"] == "Running"
    asked = await place.marty("pause", "--type", "orders", "-n", namespace)

    assert (dry[0], paused[0], resumed[0], asked[0]) == (0, 0, 0, 2), (dry, paused, resumed, asked)
    assert "Would set spec.state" in dry[1]
    assert "give --yes" in asked[1]
