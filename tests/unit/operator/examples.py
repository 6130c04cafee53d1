"""Values that the operator's tests share."""

from typing import Any

from marty_msf.core.resources.spec import RunState
from marty_msf.core.worker_status import Local, Problem, ProblemReason, WorkerStatus
from marty_operator.observation import Observed, Pod, Worker
from marty_operator.plan.pod import RuntimeImage
from marty_operator.plan.workload import Desired, config_of, wanted_replicas
from marty_operator.resource import Key, Resource
from marty_operator.validation import parse_spec

DATABASE = {"urlSecretRef": {"name": "shop-db"}}
KAFKA = {"bootstrapServers": "kafka.shop:9092"}
SPECS: dict[str, dict[str, Any]] = {
    "Saga": {
        "database": DATABASE,
        "kafka": KAFKA,
        "replicas": 2,
        "steps": [
            {"name": "reserve", "service": "inventory", "action": "reserve", "compensation": "release"},
            {"name": "charge", "service": "payment", "action": "charge", "condition": "context.total > 0"},
        ],
        "triggers": [{"kafka": {"topic": "order.events", "eventType": "order_created"}}],
    },
    "OutboxRelay": {"database": DATABASE, "kafka": KAFKA},
    "Projection": {
        "database": DATABASE,
        "kafka": KAFKA,
        "source": {"kafka": {"topics": ["order.events"]}},
        "readModel": {
            "table": "order_summary",
            "columns": {"order_id": "text", "total": "bigint"},
            "key": ["order_id"],
        },
        "events": {"order_created": {"upsert": {"order_id": "event.order_id", "total": "event.total"}}},
    },
}
KINDS = sorted(SPECS)
IMAGE = RuntimeImage("registry.example/marty-runtime:1", "IfNotPresent")


def resource(kind: str = "Saga", **spec: Any) -> Resource:
    return Resource(Key(kind, "shop", "orders"), "uid-1", 3, deleting=False, spec={**SPECS[kind], **spec})


def desired(kind: str = "Saga", secrets_hash: str = "0123456789abcdef", **spec: Any) -> Desired:
    made = resource(kind, **spec)
    parsed = parse_spec(made.key, made.spec)
    return Desired(
        key=made.key,
        owner_reference=made.owner_reference,
        config=config_of(made.key, parsed),
        replicas=wanted_replicas(parsed),
        secrets_hash=secrets_hash,
        image=IMAGE,
    )


def report(revision: str = "rev-new", *problems: Problem, **more: Any) -> WorkerStatus:
    local = Local(holder="pod", lanes=1, started_at="2026-01-01T00:00:00Z")
    return WorkerStatus(
        **{
            "resource": "shop/orders",
            "revision": revision,
            "ready": not problems,
            "problems": list(problems),
            "local": local,
            **more,
        }
    )


def worker(
    *problems: Problem, revision: str = "rev-new", ready: bool = True, silent: bool = False, trouble: str = ""
) -> Worker:
    pod = Pod("shop", "Saga", "orders", "orders-saga-1", "10.0.0.1", ready, trouble)
    return Worker(pod, None if silent else report(revision, *problems))


def observed(*workers: Worker, replicas: int = 1, **more: Any) -> Observed:
    return Observed(
        **{
            "generation": 3,
            "state": RunState.RUNNING,
            "replicas": replicas,
            "revision": "rev-new",
            "selector": "marty.dev/name=orders",
            "workers": workers,
            **more,
        }
    )


NO_DATABASE = Problem(reason=ProblemReason.DATABASE_UNAVAILABLE, message="10.0.0.9:5432 refuses: check the URL")
OWNED = Problem(reason=ProblemReason.OUTBOX_OWNED, message="relay shop/first owns the outbox: delete one of the two")
POISON = Problem(reason=ProblemReason.POISON_EVENT, message="event 7 cannot be applied", blocking=False)
NO_TOPIC = Problem(reason=ProblemReason.TOPIC_UNAVAILABLE, message="topic audit is missing", blocking=False)
