"""Threads for functions that are no coroutines: they begin in order, and the end of the process does not wait for them."""

import queue
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeAlias

#: Of functions that are no coroutines, in each process.
THREADS: Final = 32
_NAME: Final = "marty-saga-handler"

_Job: TypeAlias = tuple["Future[Any]", Callable[[], Any]]


class Threads:
    """Up to `size` threads, begun as they are needed.

    Not concurrent.futures' executor: Python joins its threads at the exit, so one function that hangs would keep a
    process that has stopped. Nothing is lost with these: a call in flight is made again by whoever owns the saga next.
    """

    def __init__(self, size: int = THREADS) -> None:
        self.size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._begun = 0
        #: Functions that still run although nobody waits for them any more, by what they are.
        self._overdue: dict[Future[Any], str] = {}

    def submit(self, work: Callable[[], Any]) -> "Future[Any]":
        """Run it as soon as a thread is free. A future that can still be cancelled was never begun."""
        job: Future[Any] = Future()
        self._jobs.put((job, work))
        if not self._idle.acquire(blocking=False) and self._begun < self.size:
            self._begun += 1
            name = f"{_NAME}_{self._begun}"
            threading.Thread(target=_work, args=(self._jobs, self._idle), name=name, daemon=True).start()
        return job

    def overran(self, job: "Future[Any]", name: str) -> None:
        """A function went over its time, which does not end it."""
        self._overdue[job] = name
        # Called at once when it has ended meanwhile; else in its thread.
        job.add_done_callback(lambda ended: self._overdue.pop(ended, None))

    def blocked(self) -> str:
        """What holds all of the threads for longer than it may, as a sentence; empty while one of them is of use."""
        return self.busy_with() if len(self._overdue) >= self.size else ""

    def busy_with(self) -> str:
        """How many threads functions hold that went over their time, and which ones those are."""
        names = Counter(list(self._overdue.values()))
        most = ", ".join(f"{name}: {count}" for name, count in names.most_common(3))
        if not most:
            return f"all {self.size} threads are busy"
        share = f"all {self.size}" if names.total() >= self.size else f"{names.total()} of the {self.size}"
        return f"{share} threads are busy with functions that do not end in their time ({most})"

    def close(self) -> None:
        """Take back what was not begun; threads end with what they run."""
        while True:
            try:
                waiting = self._jobs.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting[0].cancel()
        for _ in range(self._begun):
            self._jobs.put(None)


def _work(jobs: "queue.SimpleQueue[_Job | None]", idle: threading.Semaphore) -> None:
    while True:
        try:
            taken = jobs.get_nowait()
        except queue.Empty:
            idle.release()
            taken = jobs.get()
        if taken is None:
            return
        job, work = taken
        if job.set_running_or_notify_cancel():
            try:
                result = work()
            except BaseException as error:
                # Whatever it is, somebody waits for it.
                job.set_exception(error)
            else:
                job.set_result(result)
                del result
        # Nothing of a call is kept while there is no other.
        del taken, job, work
