"""Draws docs/saga-states.md from the state machine itself: every transition it can make is tried, none is written by hand.

`python -m dev.saga_states` writes the page, `--check` fails when it is not what the machine does.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Final

from marty_msf.core.errors import IllegalTransition
from marty_msf.core.expressions import Expression
from marty_msf.core.resources.saga import SagaSpec
from marty_msf.core.saga.definition import Definition, Lock, load, stored_form
from marty_msf.core.saga.events import (
    Broken,
    Cancel,
    Due,
    Event,
    Failed,
    Locked,
    LockLost,
    LockRefused,
    Misconfigured,
    Pause,
    Rejected,
    Restarted,
    Resume,
    Resumed,
    Retry,
    SkipStep,
    Started,
    Succeeded,
    Unlock,
    Unusable,
    Withdrawn,
)
from marty_msf.core.saga.instance import Instance, State
from marty_msf.core.saga.machine import advance

PAGE: Final = Path(__file__).parents[1] / "docs" / "saga-states.md"
DEADLINE_MS: Final = 1000
EVENTS: Final[Sequence[Event]] = (
    Started(DEADLINE_MS),
    Succeeded({}),
    Unusable("…"),
    Rejected("…", 0.5),
    Failed("…", True, 0.5),
    Failed("…", False, 0.5),
    Misconfigured("…"),
    Due(),
    Resumed(),
    Restarted(),
    Withdrawn(),
    Broken("…"),
    Cancel("…"),
    Retry("…"),
    SkipStep("…"),
    Resume("…"),
    Pause("…"),
    Unlock("…"),
    Locked(),
    LockRefused("…"),
    LockLost("…"),
)
WORDS: Final[Mapping[type[Event], str]] = {
    Started: "taken up",
    Succeeded: "2xx",
    Unusable: "2xx that cannot be kept",
    Rejected: "business failure",
    Failed: "temporary failure",
    Misconfigured: "misconfiguration",
    Due: "wait over",
    Resumed: "found in flight",
    Restarted: "found in flight",
    Withdrawn: "call given back",
    Broken: "fault of the worker",
    Cancel: "verb cancel",
    Retry: "verb retry",
    SkipStep: "verb skip-step",
    Resume: "verb resume",
    Pause: "verb pause",
    Unlock: "verb unlock",
    Locked: "lock held",
    LockRefused: "lock refused",
    LockLost: "lock lost",
}
Edge = tuple[State, State]


def definitions() -> Iterator[Definition]:
    """Sagas whose steps differ in what matters to the machine: an undo or none, before, at and after a pivot; a lock."""
    retry = {"attempts": 2, "initialBackoffMs": 10, "jitter": 0}
    kinds: list[list[dict[str, object]]] = [
        [{"compensation": "undo"}, {"compensation": "undo", "pivot": True}, {}],
        [{"compensation": "undo"}, {"pivot": True}],
        [{"condition": "false"}],
        [{"condition": "1"}],
        [{}],
    ]
    for steps in kinds:
        plain = load(
            stored_form(
                SagaSpec.model_validate(
                    {
                        "database": {"urlSecretRef": {"name": "db"}},
                        "stepDefaults": {"retry": retry},
                        "compensationDefaults": {"retry": retry},
                        "steps": [
                            {"name": f"s{index}", "service": "s", "action": "do", **step}
                            for index, step in enumerate(steps)
                        ],
                    }
                )
            )
        )
        yield plain
        yield replace(plain, lock=Lock((Expression("'order'", "spec.semanticLock.key"),), 60, reject=False))


def edges() -> dict[Edge, set[str]]:
    """Every change of state the machine makes, with the events that cause it."""
    found: dict[Edge, set[str]] = defaultdict(set)
    for definition in definitions():
        seen: set[str] = set()
        todo: list[Instance] = [Instance({})]
        while todo:
            instance = todo.pop()
            for event in EVENTS:
                for before, now_ms in product(_aged(instance, event), (0, DEADLINE_MS)):
                    try:
                        after, _ = advance(definition, before, event, now_ms)
                    except IllegalTransition:
                        continue
                    found[before.state, after.state].add(_label(event, before.state, after.state))
                    if (key := _key(after)) not in seen:
                        seen.add(key)
                        todo.append(after)
    return found


def _aged(instance: Instance, event: Event) -> Sequence[Instance]:
    """The instance, and as it is after many workers ended: counting them all up would only repeat the same changes."""
    if not isinstance(event, Resumed):
        return [instance]
    return [instance, replace(instance, operations=tuple(replace(it, resumed=99) for it in instance.operations))]


def _key(instance: Instance) -> str:
    """Instances that differ only in texts and times go on in the same way."""
    work = [(it.step, it.undo, it.calls, it.unknown, it.until_ms is not None) for it in instance.operations]
    flags = (
        instance.beyond_pivot,
        instance.back,
        instance.parking,
        instance.paused,
        instance.cancelled,
        instance.locked,
    )
    return repr((instance.state, [it.step for it in instance.happened], instance.stage, instance.todo, flags, work))


def _label(event: Event, before: State, after: State) -> str:
    words = WORDS[type(event)]
    turned = before is State.RUNNING and after in {State.COMPENSATING, State.COMPENSATED, State.FAILED}
    return f"{words} after the deadline" if turned and isinstance(event, Succeeded | Due) else words


def page() -> str:
    """The whole page."""
    found = edges()
    order = list(State)
    lines = [
        "# States of a saga instance",
        "",
        "Generated from `core/saga/machine.py` by `make generate`; do not edit.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> Pending: start",
    ]
    for before, after in sorted(found, key=lambda edge: (order.index(edge[0]), order.index(edge[1]))):
        if before is not after:
            lines.append(f"    {before} --> {after}: {', '.join(sorted(found[before, after]))}")
    ends = (State.COMPLETED, State.COMPENSATED, State.FAILED, State.CANCELLED)
    lines += [f"    {state} --> [*]" for state in ends]
    lines += ["```", "", "| in state | event | stays or becomes |", "|---|---|---|"]
    for before in order:
        events: dict[str, set[State]] = defaultdict(set)
        for (source, after), words in found.items():
            if source is before:
                for word in words:
                    events[word].add(after)
        for word in sorted(events):
            becomes: list[State] = sorted(events[word], key=order.index)
            lines.append(f"| {before} | {word} | {', '.join(becomes)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write or check the page; 1 when it differs."""
    text = page()
    if "--check" in arguments:
        if not PAGE.exists() or PAGE.read_text() != text:
            print(f"{PAGE.relative_to(PAGE.parents[1])} is not what the machine does: run `make generate`")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
