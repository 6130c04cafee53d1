"""Tasks side by side, files that are whole or absent, and what a person sees."""

import io
import os
import threading
import time
from pathlib import Path

import pytest

from dev.cluster.errors import ClusterError
from dev.cluster.files import UNUSED_SECONDS, digest_of, made_whole, used, write_if_changed
from dev.cluster.progress import Progress, Step
from dev.cluster.tasks import Task, run_tasks


def run(*tasks: Task) -> str:
    out = io.StringIO()
    with Progress(len(tasks), out) as progress:
        run_tasks(tasks, progress)
    return out.getvalue()


def test_a_task_starts_after_what_it_needs() -> None:
    order: list[str] = []

    def noting(name: str, *needs: str) -> Task:
        return Task(name, name, lambda _: order.append(name), needs)

    run(noting("c", "a", "b"), noting("b", "a"), noting("a"))

    assert order == ["a", "b", "c"]


def test_independent_tasks_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def meet(_: Step) -> None:
        meeting.wait()

    assert "[ 2/2]" in run(Task("a", "a", meet), Task("b", "b", meet))


def test_the_first_failure_ends_the_run_and_what_needs_it_never_starts() -> None:
    started: list[str] = []

    def fail(_: Step) -> None:
        raise ClusterError("no disk")

    with pytest.raises(ClusterError, match="no disk"):
        run(Task("a", "a", fail), Task("b", "b", lambda _: started.append("b"), ("a",)))
    assert started == []


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((Task("a", "a", lambda _: None, ("missing",)),), "unknown"),
        ((Task("a", "a", lambda _: None, ("b",)), Task("b", "b", lambda _: None, ("a",))), "wait for each other"),
    ],
)
def test_needs_that_cannot_be_met_are_refused(tasks: tuple[Task, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(*tasks)


def test_a_step_shows_its_number_its_note_and_that_it_failed() -> None:
    out = io.StringIO()
    with Progress(2, out) as progress:
        with progress.step("first") as step:
            step.note("3 new")
        with pytest.raises(ClusterError), progress.step("second"):
            raise ClusterError("broken")
    first, second = out.getvalue().splitlines()

    assert first.startswith("[ 1/2] first")
    assert first.endswith("3 new")
    assert "failed" in second


def test_a_draft_becomes_the_file_only_when_its_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"

    def fail_half_way() -> None:
        with made_whole(target) as draft:
            draft.write_text("half")
            raise ClusterError("killed")

    with pytest.raises(ClusterError, match="killed"):
        fail_half_way()
    assert list(target.parent.iterdir()) == []

    with made_whole(target) as draft:
        draft.write_text("whole")
    assert target.read_text() == "whole"


def test_a_draft_of_a_killed_run_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".file.draft-1").write_text("half")

    with made_whole(tmp_path / "file") as draft:
        draft.write_text("whole")

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unchanged_file_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "config"
    assert write_if_changed(file, "a", mode=0o600)
    before = file.stat()

    assert not write_if_changed(file, "a", mode=0o600)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_mode & 0o777 == 0o600


def test_a_key_tells_where_one_content_ends_and_the_next_begins() -> None:
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc")
    assert digest_of(b"ab", b"c") == digest_of(b"ab", b"c")


def test_using_a_cache_entry_drops_what_nobody_uses(tmp_path: Path) -> None:
    for name in ("used", "recent", "stale"):
        (tmp_path / name).write_text(name)
    old = time.time() - UNUSED_SECONDS - 60
    for name in ("used", "stale"):
        os.utime(tmp_path / name, (old, old))

    used(tmp_path / "used")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["recent", "used"]
