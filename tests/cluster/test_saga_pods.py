"""What a Saga's pods get beside their configuration, seen from the services: the user's code and the values of Secrets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.cluster.test_operator import spec
from tests.support.space import Space
from tests.support.waiting import eventually

#: The machine's own address on the pods' network.
HOST = "10.244.0.1"
#: The kubelet brings a changed Secret into a running pod about once a minute.
ROTATION_SECONDS = 150.0


def code(greeting: str) -> str:
    return f"""
from marty_msf.patterns.saga import saga_step


@saga_step("greet")
def greet(context):
    return {{"greeting": "{greeting} " + context["name"]}}
"""


@pytest.fixture
async def seen() -> AsyncIterator[tuple[str, list[str]]]:
    """A service: its address, and the tokens it was called with."""
    tokens: list[str] = []

    async def charge(request: web.Request) -> web.Response:
        tokens.append(request.headers.get("X-Token", ""))
        return web.json_response({})

    app = web.Application()
    app.router.add_put("/pay/{name}", charge)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    port = runner.addresses[0][1]
    yield f"{HOST}:{port}", tokens
    await runner.cleanup()


def saga(space: Space, service: str) -> dict[str, Any]:
    header = {"name": "X-Token", "secretRef": {"name": "pay", "key": "token"}}
    http = {"url": f"http://{service}/pay/{{name}}", "method": "PUT", "headersFrom": [header]}
    return spec(
        "Saga",
        space,
        "",
        runtime={"handlers": "handlers", "codeConfigMapRef": {"name": "code"}},
        steps=[
            {"name": "greet", "service": "own", "action": "greet", "call": {"python": {"handler": "greet"}}},
            {"name": "pay", "service": service, "action": "pay", "call": {"http": http}},
        ],
    )


async def write_code(space: Space, greeting: str) -> None:
    metadata = {"name": "code", "namespace": space.namespace}
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"handlers.py": code(greeting)}}
    await asyncio.to_thread(space.cluster.apply, document)


async def run(space: Space, key: str) -> dict[str, Any]:
    """Start a saga over HTTP at any pod and wait for its end."""
    token = await space.kubectl(*("get", "secret", "orders-saga", "-o"), "go-template={{.data.token | base64decode}}")
    address = await space.kubectl("get", "service", "orders-saga", "-o", "jsonpath={.spec.clusterIP}")
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(f"http://{address}", headers=headers) as client:
        async with client.post("/v1/sagas", json={"business_key": key, "context": {"name": "Ada"}}) as answer:
            started = await answer.json()

        async def look() -> dict[str, Any]:
            async with client.get(f"/v1/sagas/{started['saga_id']}") as shown:
                found: dict[str, Any] = await shown.json()
                return found

        return await eventually(look, lambda found: found["state"] == "Completed", seconds=30)


async def test_own_code_and_secrets_reach_the_steps_and_follow_their_edits(
    space: Space, database: str, seen: tuple[str, list[str]]
) -> None:
    service, tokens = seen
    await write_code(space, "hello")
    await space.write_secret("pay", "token", "first")
    await space.apply("Saga", "orders", saga(space, service))
    await space.until_condition("Saga", "orders", "Ready", "True", "WorkersReady")

    ended = await run(space, "one")
    assert (ended["context"]["greeting"], tokens) == ("hello Ada", ["first"])

    pods = await space.names("pod", "marty.dev/kind=Saga")
    await space.write_secret("pay", "token", "second")
    keys = (f"rotated-{number}" for number in range(1000))

    async def newest_token() -> str:
        await run(space, next(keys))
        return tokens[-1]

    await eventually(newest_token, lambda token: token == "second", seconds=ROTATION_SECONDS, every=2)
    assert await space.names("pod", "marty.dev/kind=Saga") == pods, "a rotated token needs no restart"

    await write_code(space, "good day")
    await eventually(lambda: space.names("pod", "marty.dev/kind=Saga"), lambda found: not found & pods, seconds=90)
    assert (await run(space, "two"))["context"]["greeting"] == "good day Ada"
