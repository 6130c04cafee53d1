"""What drives every contender: numbers are given out once, measured is what it says, latencies hide nothing."""

import asyncio
import json

import pytest

from bench.peers.programs.load import Load


async def test_a_count_runs_exactly_so_many_sagas_with_numbers_in_order() -> None:
    seen: list[int] = []

    async def one(number: int) -> str:
        seen.append(number)
        await asyncio.sleep(0)
        return "completed" if number % 2 else "compensated"

    load = Load(one)
    first = await load.order({"concurrency": 3, "count": 10})
    second = await load.order({"concurrency": 1, "count": 2})
    assert seen == list(range(12))
    assert (first["sagas"], second["sagas"]) == (10, 2)
    assert first["outcomes"] == {"completed": 5, "compensated": 5}


async def test_a_steady_load_measures_between_its_marks_and_counts_all_outcomes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def one(_: int) -> str:
        await asyncio.sleep(0.01)
        return "completed"

    answer = await Load(one).order({"concurrency": 4, "warm_up": 0.05, "seconds": 0.05})
    marks = [json.loads(line)["mark"] for line in capsys.readouterr().out.splitlines()]
    assert marks == ["begun", "over"]
    assert 0 < answer["sagas"] < answer["outcomes"]["completed"]


async def test_in_an_open_loop_a_stall_shows_in_the_latency_of_those_that_were_due_meanwhile() -> None:
    gate = asyncio.Event()

    async def one(number: int) -> str:
        if number == 9:
            gate.set()
        await gate.wait()
        return "completed"

    answer = await Load(one).order({"rate": 200, "seconds": 0.05})
    assert answer["sagas"] == 10
    # The first one waited until the last one was due, 45 ms later.
    assert answer["max_ms"] >= 44
