"""Temporal: a workflow of three activities; client and worker in this one process. ADDRESS names the server.

Argument: `activities`, each dispatched by the server and durable by itself, or `local-activities`, which run within a workflow task and
are recorded when it completes: less durable than what the other contenders do.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from load import COMPENSATED, COMPLETED, REFUSED_EACH, serve
from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "sagas"
LIMITS: dict[str, Any] = {"start_to_close_timeout": timedelta(seconds=60)}


@activity.defn
async def reserve(number: int) -> int:
    return number


@activity.defn
async def charge(number: int) -> int:
    return number


@activity.defn
async def ship(number: int) -> int:
    if number % REFUSED_EACH == 0:
        raise ApplicationError("no carrier", non_retryable=True)
    return number


@activity.defn
async def refund(number: int) -> int:
    return number


@activity.defn
async def release(number: int) -> int:
    return number


async def steps(execute: Callable[..., Awaitable[Any]], number: int) -> str:
    await execute(reserve, number, **LIMITS)
    await execute(charge, number, **LIMITS)
    try:
        await execute(ship, number, **LIMITS)
    except (ActivityError, ApplicationError):
        await execute(refund, number, **LIMITS)
        await execute(release, number, **LIMITS)
        return COMPENSATED
    return COMPLETED


@workflow.defn
class Activities:
    @workflow.run
    async def run(self, number: int) -> str:
        return await steps(workflow.execute_activity, number)


@workflow.defn
class LocalActivities:
    @workflow.run
    async def run(self, number: int) -> str:
        return await steps(workflow.execute_local_activity, number)


async def connect() -> Client:
    """Once the server answers and knows the namespace; its caches take seconds to notice a new one."""
    while True:
        try:
            client = await Client.connect(os.environ["ADDRESS"])
            break
        except RuntimeError:
            await asyncio.sleep(0.5)
    day = Duration(seconds=86400)
    request = RegisterNamespaceRequest(namespace="default", workflow_execution_retention_period=day)
    while True:
        try:
            await client.workflow_service.register_namespace(request)
        except RPCError as error:
            if "exist" not in str(error):
                await asyncio.sleep(0.5)
                continue
        break
    while True:
        try:
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
            await client.count_workflows()
            return client
        except RPCError:
            await asyncio.sleep(0.5)


async def main(mode: str) -> None:
    logging.disable(logging.CRITICAL)
    client = await connect()
    saga = {"activities": Activities, "local-activities": LocalActivities}[mode]
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[Activities, LocalActivities],
        activities=[reserve, charge, ship, refund, release],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=2000,
        max_concurrent_workflow_tasks=200,
        max_concurrent_activities=400,
        max_concurrent_local_activities=400,
        max_concurrent_workflow_task_polls=10,
        max_concurrent_activity_task_polls=10,
    )
    async with worker:

        async def one(number: int) -> str:
            return str(await client.execute_workflow(saga.run, number, id=f"{mode}-{number}", task_queue=QUEUE))

        await serve(one)


asyncio.run(main(sys.argv[1]))
