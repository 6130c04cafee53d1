"""Workers that ended although nobody killed them. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def restart_counts(pods: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Pod name to how often its container was started again."""
    return {pod["metadata"]["name"]: sum(found["restartCount"] for found in _statuses(pod)) for pod in pods}


def crashes(before: Mapping[str, int], pods: Sequence[Mapping[str, Any]], killed: Collection[str]) -> tuple[str, ...]:
    """A line for each pod with more restarts since `before` than the demo caused itself."""
    now = restart_counts(pods)
    extra = {name: count - before.get(name, 0) - int(name in killed) for name, count in now.items()}
    return tuple(f"{name}: {extra[name]} times, {_last_end(pod)}" for pod in pods if extra[name := _name(pod)] > 0)


def _name(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def _statuses(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = pod["status"].get("containerStatuses", [])
    return found


def _last_end(pod: Mapping[str, Any]) -> str:
    ended = next((found["lastState"]["terminated"] for found in _statuses(pod) if found.get("lastState")), None)
    return (
        f"the last time with exit code {ended['exitCode']} ({ended.get('reason', 'no reason')})"
        if ended
        else "no trace"
    )
