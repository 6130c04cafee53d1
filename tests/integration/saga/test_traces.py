"""A trace that comes with a start goes through every call, over restarts; with OpenTelemetry each call is a span of it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.trace import of_saga
from marty_msf.core.worker_config import SagaConfig
from marty_msf.patterns.saga import SagaOrchestrator, StepContext
from marty_msf.worker.board import Board
from marty_msf.worker.http import Surface, application
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, pool_of, spec, states, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"
TOKEN = {"Authorization": "Bearer the-token"}


class Service:
    """Keeps the trace that each call came with; fails `charge` for a time while it is asked to."""

    def __init__(self) -> None:
        self.traces: list[tuple[str, str]] = []
        self.failing = False

    async def handle(self, request: web.Request) -> web.Response:
        action = request.match_info["action"]
        self.traces.append((action, request.headers["traceparent"]))
        return web.json_response({}, status=503 if self.failing and action == "charge" else 200)

    def of(self, action: str) -> set[str]:
        return {text for name, text in self.traces if name == action}


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, SagaSpec]]:
    it, app = Service(), web.Application()
    app.add_routes([web.post("/{action}", it.handle)])
    async with TestServer(app) as server:
        address = f"127.0.0.1:{server.port}"
        yield it, spec(*({"name": name, "service": address} for name in ("reserve", "charge")))


@asynccontextmanager
async def working(url: str, plan: SagaSpec) -> AsyncIterator[TestClient[Any, Any]]:
    board = Board()
    async with pool_of(url) as pool:
        registry = new_registry(board)
        context = Context(pool, f"test/{secrets.token_hex(4)}", RESOURCE, board, registry)
        role = SagaRole(context, SagaConfig(namespace="shop", name="orders", spec=plan))
        stop = asyncio.Event()
        task = asyncio.create_task(role.run(stop))
        app = application(Surface(role, board, registry, RESOURCE, "r1"), role, "the-token")
        async with TestClient(TestServer(app)) as client:
            await eventually(told(lambda: role.engine is not None and role.engine.ready.is_set()))
            yield client
        stop.set()
        await task


async def start(client: TestClient[Any, Any], key: str, traceparent: str | None = None) -> str:
    headers = TOKEN | ({"traceparent": traceparent} if traceparent else {})
    answer = await client.post("/v1/sagas", json={"business_key": key}, headers=headers)
    assert answer.status == 201
    return str((await answer.json())["saga_id"])


async def completed(conn: asyncpg.Connection, count: int) -> None:
    await eventually(lambda: states(conn), lambda found: found["Completed"] == count)


async def test_the_trace_of_a_start_goes_to_every_call_whoever_makes_it(
    postgres_url: str, conn: asyncpg.Connection, service: tuple[Service, SagaSpec]
) -> None:
    it, plan = service
    it.failing = True
    async with working(postgres_url, plan) as client:
        saga_id = await start(client, "http", GIVEN)
        await eventually(told(lambda: it.of("charge")))
        parked = await eventually(lambda: states(conn), lambda found: found["Running"] == 0)
        assert parked.total() == 1
    assert it.of("reserve") == it.of("charge") == {GIVEN}

    it.failing, it.traces = False, []
    async with working(postgres_url, plan) as client:
        own = await start(client, "own", "00-none-of-it-01")
        sql = "SELECT marty.start_saga($1, $2, '{}', traceparent => $3)::text"
        await conn.fetchval(sql, RESOURCE, "sql", GIVEN.replace("736-", "737-"))
        wrong = await conn.fetchval(sql, RESOURCE, "wrong", "00-none-01")
        later = await conn.fetchval(sql, RESOURCE, "later", f"cc{GIVEN[2:]}-more")
        await completed(conn, 4)
        assert later
        assert it.of("charge") == {of_saga(own), of_saga(wrong), GIVEN, GIVEN.replace("736-", "737-")}
        assert TRACE in (await marty(postgres_url, "get", saga_id)).out


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """OpenTelemetry set up as an application does, for one test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def parts(span: ReadableSpan) -> tuple[str, str, str | None]:
    assert span.context
    parent = f"{span.parent.span_id:016x}" if span.parent else None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


async def test_start_and_calls_are_spans_where_open_telemetry_is_set_up(
    postgres_url: str, conn: asyncpg.Connection, service: tuple[Service, SagaSpec], spans: InMemorySpanExporter
) -> None:
    it, plan = service
    async with working(postgres_url, plan) as client:
        saga_id = await start(client, "http", GIVEN)
        await completed(conn, 1)

    begun, reserve, charge = spans.get_finished_spans()
    assert [span.name for span in (begun, reserve, charge)] == ["POST /v1/sagas", "POST /reserve", "POST /charge"]
    assert [span.kind.name for span in (begun, reserve, charge)] == ["SERVER", "CLIENT", "CLIENT"]
    own = parts(begun)[1]
    assert parts(begun)[::2] == (TRACE, "00f067aa0ba902b7")
    assert [parts(span)[::2] for span in (reserve, charge)] == [(TRACE, own)] * 2
    assert it.traces == [
        (name, f"00-{TRACE}-{parts(span)[1]}-01") for name, span in (("reserve", reserve), ("charge", charge))
    ]
    attributes = dict(reserve.attributes or {})
    assert attributes["http.response.status_code"] == 200
    assert (attributes["marty.saga.id"], attributes["marty.saga.step"]) == (saga_id, "reserve")
    assert str(attributes["url.full"]).endswith("/reserve")


async def test_handlers_run_in_their_calls_span_and_below_the_one_who_started(
    postgres_url: str, spans: InMemorySpanExporter
) -> None:
    seen: list[tuple[str, int]] = []

    def reserve(context: StepContext) -> None:
        seen.append((context.traceparent, trace.get_current_span().get_span_context().span_id))
        raise OSError("out of order")

    orchestrator = SagaOrchestrator("traced", database_url=postgres_url)
    orchestrator.register_step_handler("reserve", reserve)
    async with orchestrator:
        with trace.get_tracer("test").start_as_current_span("checkout") as checkout:
            trace_id = checkout.get_span_context().trace_id
            saga_id = await orchestrator.start_saga("order", [{"step": "reserve", "retry_attempts": 1}])
        await orchestrator.wait_for_saga(saga_id, 20)

    calls = [span for span in spans.get_finished_spans() if span.name == "reserve do"]
    assert [parts(span)[0] for span in calls] == [f"{trace_id:032x}"] * len(seen)
    own = [parts(span)[1] for span in calls]
    assert [f"{span_id:016x}" for _, span_id in seen] == own
    assert [context.split("-")[1:3] for context, _ in seen] == [[f"{trace_id:032x}", span_id] for span_id in own]
    assert calls[0].status.status_code is trace.StatusCode.ERROR
    assert "out of order" in str(calls[0].status.description)
