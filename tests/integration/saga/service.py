"""A real step service for crash tests: another process, idempotent by key, with a ledger of every call in a file.

Run as `python -m tests.integration.saga.service PORT LEDGER`. Orders with `decline` in their context are refused payment, and `refuse` names an
action that is refused.
"""

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web


class Service:
    """Performs each idempotency key once; the ledger has a line per call, with whether it was the first."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._answers: dict[str, tuple[int, object]] = {}

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        key = request.headers["Idempotency-Key"]
        action = request.match_info["action"]
        first = key not in self._answers
        if first:
            self._answers[key] = self._perform(action, json.loads(body))
        status, answer = self._answers[key]
        with self._ledger.open("a") as ledger:
            line = {"key": key, "action": action, "body": body.decode(), "first": first, "status": status}
            ledger.write(json.dumps(line) + "\n")
        return web.json_response(answer, status=status)

    @staticmethod
    def _perform(action: str, body: dict[str, dict[str, object]]) -> tuple[int, object]:
        context = body["context"]
        if context.get("refuse") == action or (action == "charge" and context.get("decline")):
            return 402, {"error": "declined"}
        return 200, {action: f"{action}-1"}


async def main(port: int, ledger: Path) -> None:
    app = web.Application()
    app.add_routes([web.post("/{action}", Service(ledger).handle)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
