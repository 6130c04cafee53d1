"""Run tasks side by side, each as soon as what it needs is done."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from dev.cluster.progress import Progress, Step


@dataclass(frozen=True, slots=True)
class Task:
    """`action` gets the step to note its progress on; `needs` are names of other tasks of the same run."""

    name: str
    title: str
    action: Callable[[Step], None]
    needs: tuple[str, ...] = ()


def run_tasks(tasks: Sequence[Task], progress: Progress) -> None:
    """Run all; after the first failure start nothing new, let running tasks end, then raise that failure.

    ValueError: a need is unknown or the needs form a circle.
    """
    names = {task.name for task in tasks}
    unknown = {need for task in tasks for need in task.needs} - names
    if unknown:
        raise ValueError(f"tasks need unknown tasks: {', '.join(sorted(unknown))}")
    waiting, done = list(tasks), set[str]()
    running: dict[Future[None], Task] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(max_workers=max(1, len(tasks))) as pool:
        while waiting or running:
            ready = [] if failure else [task for task in waiting if done.issuperset(task.needs)]
            waiting = [task for task in waiting if task not in ready]
            running |= {pool.submit(_act, task, progress): task for task in ready}
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                done.add(task.name)
                failure = failure or future.exception()
    if failure:
        raise failure
    if waiting:
        raise ValueError(f"tasks wait for each other: {', '.join(task.name for task in waiting)}")


def _act(task: Task, progress: Progress) -> None:
    with progress.step(task.title) as step:
        task.action(step)
