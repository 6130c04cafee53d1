"""Dead letters on the command line and over the HTTP surface of a real worker."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from marty_msf.core.worker_status import RelayTotals, WorkerStatus
from marty_msf.store.database import open_pool
from marty_msf.worker.http import bearer
from marty_msf.worker.relay.surface.routes import Routes
from tests.integration.relay.setup import relay_config
from tests.integration.saga.commands import Done, marty
from tests.support.dead_letters import check_counters, held, positions, rows
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

TOKEN = "token-of-the-test"


async def dlq(url: str, *arguments: str) -> Done:
    return await marty(url, *arguments, group="dlq")


async def test_the_list_shows_causes_and_with_a_filter_the_letters(postgres_url: str, conn: asyncpg.Connection) -> None:
    for number in range(3):
        await held(conn, error=f"{number} bytes are too many")
    await held(conn, topic="stock")

    causes = await dlq(postgres_url, "list")
    letters = await dlq(postgres_url, "list", "--topic", "orders", "--limit", "2")

    header, first, _ = causes.out.splitlines()
    assert header.split() == ["CAUSE", "COUNT", "TOPIC", "TYPE", "LAST", "SAMPLE", "MESSAGE"]
    assert first.split()[1:4] == ["3", "orders", "placed"]
    assert first.endswith("<number> bytes are too many")
    assert [line.split()[0] for line in letters.out.splitlines()] == ["ID", "3", "2"]
    assert "there are more: --after 2" in letters.err
    rest = await dlq(postgres_url, "list", "--topic", "orders", "--after", "2", "-o", "json")
    assert [it["id"] for it in rest.json["dead_letters"]] == [1]
    assert [it["count"] for it in rest.json["groups"]] == [3, 1]
    assert rest.json["next"] is None


async def test_dead_letters_without_a_cause_are_told_of(postgres_url: str, conn: asyncpg.Connection) -> None:
    await held(conn)
    await conn.execute("UPDATE marty.outbox_held SET cause = NULL")
    await conn.execute("DELETE FROM marty.outbox_cause")

    only = await dlq(postgres_url, "list")
    await held(conn, topic="stock")
    among = await dlq(postgres_url, "list")

    assert only.out == ""
    assert (
        only.err == "1 of the dead letters have no cause, because deadLetter.analysis was off: marty dlq list --all\n"
    )
    assert len(among.out.splitlines()) == 2
    assert among.err == "1 of the dead letters have a rarer cause or none: marty dlq list --all\n"


async def test_an_empty_queue_says_so(postgres_url: str) -> None:
    done = await dlq(postgres_url, "list")

    assert (done.code, done.out, done.err) == (0, "", "No dead letters found.\n")


async def test_one_is_shown_with_all_that_is_known(postgres_url: str, conn: asyncpg.Connection) -> None:
    number = await held(conn, headers='{"tenant": "t1"}')
    await held(conn, state="Waiting")
    binary = await held(conn, payload=b"\xff\x00", aggregate=None)

    text = (await dlq(postgres_url, "show", str(number))).out
    assert "Error:        message of 2000000 bytes is over 1000000\n" in text
    assert "Behind it:    1 of its aggregate, the first is 2\n" in text
    assert "Header:       tenant: t1\n" in text
    assert 'Payload:      {"n": 1}\n' in text
    assert f"marty dlq redrive | edit | discard {number}" in text
    form = (await dlq(postgres_url, "show", str(binary), "-o", "json")).json
    assert (form["payload_base64"], form["deliver_after"]) == ("/wA=", None)


async def test_a_payload_that_is_too_long_to_read_is_cut_for_people_only(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    number = await held(conn, payload=b"x" * 900_000)

    text = (await dlq(postgres_url, "show", str(number))).out
    assert f"Payload:      {'x' * 4_000}… (900,000 characters, all of them with -o json)\n" in text
    assert (await dlq(postgres_url, "show", str(number), "-o", "json")).json["payload"] == "x" * 900_000


async def test_one_whose_time_no_calendar_of_ours_has_is_shown(postgres_url: str, conn: asyncpg.Connection) -> None:
    dead, waiting = await held(conn), await held(conn, state="Waiting")
    for time in ("4700-01-01 BC", "294000-01-01", "infinity"):
        await conn.execute(f"UPDATE marty.outbox_held SET deliver_after = '{time}'")
        await conn.execute(f"UPDATE marty.outbox_held SET due_at = '{time}' WHERE id = {waiting}")
        assert (await dlq(postgres_url, "show", str(dead))).code == 0
        assert (await dlq(postgres_url, "show", str(waiting))).code == 0
        refused = await dlq(postgres_url, "redrive", str(waiting), "--yes")
        assert (refused.code, f"event {waiting}" in refused.err) == (1, True)


@pytest.mark.parametrize("verb", ["redrive", "discard"])
async def test_a_verb_is_looked_at_and_done(postgres_url: str, conn: asyncpg.Connection, verb: str) -> None:
    number = await held(conn)

    looked = await dlq(postgres_url, verb, "--all", "--dry-run")
    asked = await dlq(postgres_url, verb, "--all")
    assert looked.out.splitlines()[-1] == f"Would {verb} 1 dead letter of 1 aggregate. Nothing was changed."
    assert (asked.code, "give --yes" in asked.err) == (2, True)
    assert await rows(conn) == {number: ("Dead", False)}
    assert await conn.fetchval("SELECT count(*) FROM marty.outbox_verb") == 0

    done = await dlq(postgres_url, verb, str(number), "--yes", "--as", "ann", "--why", "mended", "-o", "json")

    assert done.json == {"verb": verb, "by": "ann", "affected": 1, "refused": []}
    assert await rows(conn) == ({number: ("Retrying", True)} if verb == "redrive" else {})
    assert tuple(await conn.fetchrow("SELECT verb, who, why FROM marty.outbox_verb")) == (verb, "ann", "mended")
    await check_counters(conn)
    again = await dlq(postgres_url, verb, str(number), "--yes")
    assert again.code == 1
    assert ("is not dead: it is Retrying" if verb == "redrive" else "is not held") in again.err


async def test_an_event_is_edited_from_a_file(postgres_url: str, conn: asyncpg.Connection, tmp_path: Path) -> None:
    number = await held(conn)
    (tmp_path / "new.json").write_text('{"n": 2}')
    arguments = ("edit", str(number), "--payload", f"@{tmp_path / 'new.json'}", "--headers", '{"tenant": "t1"}')

    looked = await dlq(postgres_url, *arguments, "--dry-run")
    assert '- payload: {"n": 1}' in looked.out
    assert '+ payload: {"n": 2}' in looked.out
    assert await conn.fetchval("SELECT payload FROM marty.outbox_held") == b'{"n": 1}'
    done = await dlq(postgres_url, *arguments, "--yes")

    assert (done.code, done.out) == (0, f"Event {number} edited. Send it: marty dlq redrive {number}\n")
    found = await conn.fetchrow("SELECT payload, headers FROM marty.outbox_held")
    assert (found[0], json.loads(found[1])) == (b'{"n": 2}', {"tenant": "t1"})


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("show", "x"), 2, "ID: 'x' is no event's id"),
        (("show", "7"), 1, "event 7 is not held: it was published or discarded"),
        (("list", "--cause", "7"), 2, "--cause: '7' is not twelve hex digits"),
        (("list", "--since", "soon"), 2, "--since: 'soon' is neither an age nor a time"),
        (("redrive",), 2, "give either IDs, or filters"),
        (("redrive", "7", "--topic", "t"), 2, "give either IDs, or filters"),
        (("redrive", "--all", "--topic", "t"), 2, "give either IDs, or filters"),
        (("discard", "--topic", "t", "--yes"), 1, "no dead letter fits: look with `marty dlq list`"),
        *((("redrive", "--all", "--yes", "--as", nobody), 2, "--as: is empty") for nobody in ("", " ")),
        (("edit", "7"), 2, "give --payload or --headers"),
        (("edit", "7", "--payload", "@/nowhere"), 2, "--payload: @/nowhere: "),
        (("edit", "7", "--payload", "{}"), 1, "event 7 is not held"),
        # The database is given, so they would be ignored.
        (("list", "--relay", "orders"), 2, "--relay names a cluster's resource"),
        (("list", "-n", "prod"), 2, "--namespace names a cluster's resource"),
        (("list", "--context", "prod"), 2, "leave --context out, or unset MARTY_DATABASE_URL"),
        (("list", "--kubeconfig", "/x"), 2, "--kubeconfig names a cluster's resource"),
    ],
)
async def test_what_is_wrong_is_told_with_a_remedy(
    postgres_url: str, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = await dlq(postgres_url, *arguments)

    assert done.code == code
    assert text in done.err


async def test_the_status_of_the_outbox(postgres_url: str, conn: asyncpg.Connection) -> None:
    await held(conn)
    await held(conn, state="Waiting")
    await conn.execute("SELECT marty.enqueue_event('t', 'e', '{}', 'a')")

    form = (await marty(postgres_url, "status", "-o", "json", group="outbox")).json
    text = (await marty(postgres_url, "status", group="outbox")).out

    assert (form["unread"], form["held"], form["dead"], form["dead_total"]) == (1, 1, 1, 1)
    assert 500 < form["oldest_held_seconds"] < 1000
    assert "Dead:          1 now, 1 in all\n" in text


async def test_the_cursor_is_reset_after_a_restore(postgres_url: str, conn: asyncpg.Connection) -> None:
    await conn.execute("SELECT marty.enqueue_event('t', 'e', '{}', 'a')")
    await positions(conn)
    sound = await marty(postgres_url, "reset-cursor", "--skip", "--yes", group="outbox")
    await conn.execute("UPDATE marty.outbox_position SET system_identifier = 1")
    neither = await marty(postgres_url, "reset-cursor", group="outbox")
    assert (await marty(postgres_url, "reset-cursor", "--skip", "--republish", group="outbox")).code == 2
    looked = await marty(postgres_url, "reset-cursor", "--republish", "--dry-run", group="outbox")
    assert await conn.fetchval("SELECT count(*) FROM marty.outbox_position WHERE system_identifier = 1") == 64
    done = await marty(postgres_url, "reset-cursor", "--republish", "--yes", group="outbox")

    assert (sound.code, "stored by this very Postgres cluster" in sound.err) == (2, True)
    assert (neither.code, "give --republish or --skip" in neither.err) == (2, True)
    assert looked.out == "Would republish 1 event (0 more are held and stay so). Nothing was changed.\n"
    assert done.out == "Done: republish 1 event (0 more are held and stay so).\n"
    assert await conn.fetchval("SELECT count(*) FROM marty.outbox_position WHERE system_identifier = 1") == 0


class Served(NamedTuple):
    """The surface of a worker."""

    url: str
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: object = None, token: str = TOKEN) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}", "Marty-User": "ann"}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def served(postgres_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    """A worker whose broker is nowhere: its surface works all the same, and nothing is sent meanwhile."""
    config, port = relay_config(tmp_path / "config.json", f"127.0.0.1:{free_port()}"), free_port()
    environment = {
        "MARTY_DATABASE_URL": postgres_url,
        "MARTY_TOKEN": TOKEN,
        "MARTY_POD_NAME": "pod",
        "MARTY_HTTP_HOST": "127.0.0.1",
        "MARTY_HTTP_PORT": str(port),
    }
    arguments = ["-m", "marty_msf.cli", "run", "relay", "--config", str(config)]
    async with running(arguments, tmp_path / "worker.log", environment), aiohttp.ClientSession() as http:
        served = Served(f"http://127.0.0.1:{port}", http)

        async def answers() -> bool:
            try:
                return (await served.ask("GET", "/v1/dead-letters"))[0] == 200
            except aiohttp.ClientConnectionError:
                return False

        await eventually(answers)
        yield served


@pytest.fixture
async def surface(postgres_url: str) -> AsyncIterator[Served]:
    """The routes alone, behind the token, without the process."""
    pool = await open_pool(postgres_url, 2, "test")
    app = web.Application(middlewares=[bearer(TOKEN)])
    app.add_routes(Routes(pool).definitions())
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        yield Served(str(server.make_url("")).rstrip("/"), http)
    await pool.close()


async def test_nothing_is_told_without_the_token(surface: Served) -> None:
    assert (await surface.ask("GET", "/v1/dead-letters", token="another"))[0] == 401


async def test_the_verbs_over_http(served: Served, conn: asyncpg.Connection) -> None:
    number, behind = await held(conn), await held(conn, state="Waiting")
    other = await held(conn, topic="stock", aggregate="a-2")

    status, listed = await served.ask("GET", "/v1/dead-letters?limit=1")
    assert (status, [it["id"] for it in listed["dead_letters"]], listed["next"]) == (200, [other], other)
    assert len(listed["groups"]) == 2
    assert (await served.ask("GET", f"/v1/dead-letters?after={other}"))[1]["dead_letters"][0]["id"] == number
    shown = (await served.ask("GET", f"/v1/dead-letters/{number}"))[1]
    assert (shown["payload"], shown["waiting_behind"], shown["first_waiting"]) == ('{"n": 1}', 1, behind)

    change = {"payload": '{"n": 2}', "headers": {"tenant": "t1"}, "why": "wrong number"}
    assert (await served.ask("PATCH", f"/v1/dead-letters/{number}?dryRun=true", change))[1]["dry_run"] is True
    assert await conn.fetchval("SELECT payload FROM marty.outbox_held WHERE id = $1", number) == b'{"n": 1}'
    assert (await served.ask("PATCH", f"/v1/dead-letters/{number}", change))[0] == 200
    assert await conn.fetchval("SELECT payload FROM marty.outbox_held WHERE id = $1", number) == b'{"n": 2}'

    dry = await served.ask("POST", "/v1/dead-letters/redrive?dryRun=true", {"all": True})
    assert (dry[0], dry[1]["events"]) == (200, 2)
    done = await served.ask("POST", "/v1/dead-letters/redrive", {"ids": [number, behind]})
    assert (done[0], done[1]["affected"], [it["id"] for it in done[1]["refused"]]) == (200, 1, [behind])
    assert (await served.ask("POST", "/v1/dead-letters/discard", {"topic": "stock"}))[1]["affected"] == 1

    audit = await conn.fetch("SELECT verb, who, why, affected FROM marty.outbox_verb ORDER BY id")
    assert [tuple(it) for it in audit] == [
        ("edit", "ann", "wrong number", 1),
        ("redrive", "ann", "", 1),
        ("discard", "ann", "", 1),
    ]
    await check_counters(conn)
    assert (await served.ask("POST", "/v1/dead-letters/redrive", {"ids": [number]}))[0] == 409


async def test_status_and_metrics_tell_of_the_dead(served: Served, conn: asyncpg.Connection) -> None:
    number = await held(conn)
    await held(conn, state="Waiting")

    async def totals() -> RelayTotals:
        found = WorkerStatus.model_validate((await served.ask("GET", "/status"))[1]).totals
        assert isinstance(found, RelayTotals)
        return found

    found = await eventually(totals, lambda it: it.dead == 1)
    (group,) = found.dead_letter_groups
    assert (group.count, group.sample, group.topic, found.pending, found.dead_total) == (1, number, "orders", 1, 1)
    assert 500 < found.oldest_pending_seconds < 1000


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/v1/dead-letters?colour=red", None, 400, "colour: is unknown"),
        ("GET", "/v1/dead-letters?limit=0", None, 400, "limit: '0' is no number"),
        ("GET", "/v1/dead-letters?limit=000000200999", None, 400, "limit: '000000200999' is no number"),
        ("GET", "/v1/dead-letters?topic=a&topic=b", None, 400, "topic: is given more than once"),
        ("GET", "/v1/dead-letters?cause=7", None, 400, "cause: '7' is not twelve hex digits"),
        ("GET", "/v1/dead-letters/x", None, 400, "id: 'x' is no event's id"),
        ("GET", "/v1/dead-letters/7", None, 404, "event 7 is not held"),
        ("POST", "/v1/dead-letters/redrive", {}, 400, "does not say which"),
        ("POST", "/v1/dead-letters/redrive", {"ids": 7}, 400, "ids: 7 is no array"),
        ("POST", "/v1/dead-letters/redrive", {"ids": [7], "topic": "t"}, 400, "does not say which"),
        ("POST", "/v1/dead-letters/redrive", {"ids": [7]}, 404, "event 7 is not held"),
        ("POST", "/v1/dead-letters/discard", {"topic": "t"}, 404, "no dead letter fits"),
        ("POST", "/v1/dead-letters/discard", {"topic": 7}, 400, "topic: 7 is no text"),
        ("POST", "/v1/dead-letters/discard?dryRun=1", {"all": True}, 400, "dryRun: '1' is neither"),
        ("PATCH", "/v1/dead-letters/7", {}, 404, "event 7 is not held"),
        ("PATCH", "/v1/dead-letters/7", {"payload": {}}, 400, "payload: is a dict"),
        ("PATCH", "/v1/dead-letters/7", {"payload_base64": "?"}, 400, "payload_base64: cannot be read"),
        ("POST", "/v1/cursor/reset", {}, 400, "how: None is neither republish nor skip"),
    ],
)
async def test_what_is_wrong_over_http(
    surface: Served, method: str, path: str, body: object, status: int, text: str
) -> None:
    found, answer = await surface.ask(method, path, body)

    assert found == status
    assert text in answer["error"]
