"""Good resources of each kind, and a way to spoil a copy of one."""

import copy
from collections.abc import Callable
from typing import Any

Resource = dict[str, Any]
Spoil = Callable[[Resource], object]

_DATABASE = {"urlSecretRef": {"name": "shop-db"}}
_KAFKA = {"bootstrapServers": "kafka.shop:9092"}


def _resource(kind: str, name: str, spec: Resource) -> Resource:
    return {
        "apiVersion": "consistency.marty.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"database": _DATABASE, **spec},
    }


SAGA = _resource(
    "Saga",
    "order-processing",
    {
        "steps": [
            {"name": "reserve", "service": "inventory-service", "action": "reserve", "compensation": "release"},
            {"name": "charge", "service": "payment", "action": "charge", "compensation": "refund", "pivot": True},
            {"name": "ship", "service": "order-service:8080", "action": "v1/ship", "retry": {"attempts": 3}},
        ]
    },
)
GROUPED = _resource(
    "Saga",
    "grouped",
    {
        "maxParallelSteps": 2,
        "semanticLock": {"keys": ["'order:' + context.order_id", "context.customer_id"]},
        "steps": [
            {"name": "check_customer", "service": "customer", "action": "check", "parallelGroup": "checks"},
            {"name": "check_stock", "service": "inventory", "action": "check", "parallelGroup": "checks"},
            {"name": "charge", "service": "payment", "action": "charge"},
            {"name": "ship", "service": "shipping", "action": "ship"},
        ],
    },
)
CALLING = _resource(
    "Saga",
    "calling",
    {
        "kafka": _KAFKA,
        "runtime": {"image": "registry.example/shop:1", "handlers": "shop.sagas", "codeConfigMapRef": {"name": "code"}},
        "stepCache": {"redis": {"urlSecretRef": {"name": "shop-redis"}}},
        "steps": [
            {
                "name": "charge",
                "service": "payment",
                "action": "charge",
                "compensation": "refund",
                "circuitBreaker": {"failureThreshold": 3},
                "call": {
                    "http": {
                        "url": "https://pay.example/orders/{order_id}/charge?currency={price.currency}",
                        "compensationUrl": "https://pay.example/orders/{order_id}/refund",
                        "headers": {"X-Shop": "7"},
                        "headersFrom": [{"name": "Authorization", "secretRef": {"name": "pay", "key": "token"}}],
                        "tls": {"caSecretRef": {"name": "pay-ca"}},
                    }
                },
            },
            {"name": "rate", "service": "shop", "action": "rate", "call": {"python": {"handler": "rate"}}},
            {
                "name": "ship",
                "service": "shipping",
                "action": "ship",
                "call": {"kafka": {"commandTopic": "ship.commands", "replyTopic": "ship.replies", "key": "order_id"}},
            },
            {
                "name": "check",
                "service": "customer",
                "action": "check",
                "cache": {"ttlSeconds": 300, "key": "context.customer_id"},
            },
        ],
    },
)
RELAY = _resource("OutboxRelay", "shop", {"kafka": _KAFKA})
SECURE = _resource(
    "OutboxRelay",
    "secure",
    {
        "kafka": {
            **_KAFKA,
            "tls": {"trustedCertificates": [{"secretName": "main-cluster-ca-cert"}]},
            "authentication": {"type": "scram-sha-512", "secretRef": {"name": "shop-user"}},
            "producer": {"compression": "zstd", "lingerMs": 100},
        }
    },
)
MAPPED = _resource(
    "OutboxRelay",
    "mapped",
    {
        "kafka": _KAFKA,
        "retention": {"publishedHours": 48, "archiveTable": "outbox_archive"},
        "source": {
            "table": "app.outbox_events",
            "topic": "order.events",
            "columns": {"eventId": "id", "aggregateId": "aggregateId", "eventType": "type", "payload": "payload"},
        },
    },
)
PROJECTION = _resource(
    "Projection",
    "order-summary",
    {
        "kafka": _KAFKA,
        "source": {"kafka": {"topics": ["order.events"]}},
        "readModel": {
            "table": "order_summary",
            "columns": {"order_id": "text", "status": "text", "total": "bigint"},
            "key": ["order_id"],
            "indexes": [["status"]],
        },
        "events": {
            "order_created": {"upsert": {"total": "event.total", "status": "'created'"}},
            "order_paid": {"update": {"status": "'paid'"}},
            "order_deleted": {"delete": True},
        },
    },
)
GOOD = {"Saga": SAGA, "OutboxRelay": RELAY, "Projection": PROJECTION}


def spoiled(good: Resource, spoil: Spoil) -> Resource:
    """A copy of `good`, changed by `spoil`."""
    resource = copy.deepcopy(good)
    spoil(resource)
    return resource


def change(path: str, value: object) -> Spoil:
    """Set the field at a dotted path; a number is a list index."""

    def spoil(resource: Resource) -> None:
        *parents, last = path.split(".")
        target: Any = resource
        for name in parents:
            target = target[int(name) if name.isdigit() else name]
        target[int(last) if last.isdigit() else last] = value

    return spoil


def remove(path: str) -> Spoil:
    """Delete the field at a dotted path."""

    def spoil(resource: Resource) -> None:
        *parents, last = path.split(".")
        target: Any = resource
        for name in parents:
            target = target[int(name) if name.isdigit() else name]
        del target[last]

    return spoil
