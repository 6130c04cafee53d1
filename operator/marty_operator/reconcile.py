"""One pass over one resource: read, validate, plan, apply, observe, write the status. Level-triggered and idempotent.

Every pass starts from what the API server says now; killing the operator between any two calls is mended by the next pass.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.spec import API_VERSION, RunState
from marty_msf.core.worker_config import revision
from marty_msf.core.worker_status import ProblemReason
from marty_operator import conditions, events, inputs, metrics, secrets, status
from marty_operator.applied import Applier, NameTaken
from marty_operator.cluster import Cluster, ClusterRefused
from marty_operator.migrations import Migrations
from marty_operator.observation import Blocker, Migration, MigrationPhase, Observed, Reason
from marty_operator.plan.labels import selector_text
from marty_operator.plan.pod import RuntimeImage
from marty_operator.plan.workload import Config, Desired, Spec, config_of, image_of, owned_name, wanted_replicas
from marty_operator.pods import PodList
from marty_operator.resource import Key, Manifest, Resource
from marty_operator.secrets import Hasher
from marty_operator.validation import last_good, parse_spec, scaled
from marty_operator.workers import Workers

logger = logging.getLogger(__name__)

SETTLED_SECONDS: Final = 5.0
UNSETTLED_SECONDS: Final = 1.0
#: A resource that has not settled for a minute is looked at less often: it waits for something outside.
WAITING_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 60.0
#: A pass makes about a dozen calls, each with a time-out of its own; this bounds them together.
PASS_SECONDS: Final = 60.0
#: All passes together: with very many resources each is looked at less often, instead of flooding the API server.
PASSES_PER_SECOND: Final = 25.0


@dataclass(slots=True)
class _Memory:
    """Saves calls and paces writes; losing it loses nothing."""

    uid: str
    unsettled_since: float
    written_at: float = float("-inf")
    token: str = ""
    migration: str = ""
    good: Config | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a pass decided from the spec. `config` is the good one, which after an invalid edit is an earlier one."""

    config: Config | None
    state: RunState
    replicas: int
    blocker: Blocker | None = None


class Reconciler:
    """Called by the queue with a key; returns the seconds until it wants to see the resource again."""

    def __init__(
        self,
        cluster: Cluster,
        pods: PodList,
        workers: Workers,
        hasher: Hasher,
        image: RuntimeImage,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.applier = Applier(cluster, now)
        self._cluster = cluster
        self._pods = pods
        self._workers = workers
        self._hasher = hasher
        self._image = image
        self._migrations = Migrations(cluster, hasher, image)
        self._now = now
        self._memory: dict[Key, _Memory] = {}

    @property
    def generations(self) -> dict[Key, int]:
        """The newest generation that a pass has read, per resource: what the watch must have shown by then."""
        return {key: memory.generation for key, memory in self._memory.items()}

    def knows(self, key: Key, generation: int) -> bool:
        """Whether a pass has read this generation already."""
        return key in self._memory and self._memory[key].generation >= generation

    async def __call__(self, key: Key) -> float | None:
        try:
            with metrics.RECONCILE_SECONDS.labels(key.kind).time():
                async with asyncio.timeout(PASS_SECONDS):
                    return await self._reconcile(key)
        except Exception as error:
            metrics.RECONCILE_ERRORS.labels(key.kind, type(error).__name__).inc()
            raise

    async def _reconcile(self, key: Key) -> float | None:
        manifest = await self._cluster.get(*key)
        resource = Resource.parse({"kind": key.kind, **manifest}) if manifest else None
        if resource is None or resource.deleting:
            self._memory.pop(key, None)
            self.applier.forget(key)
            return None  # the garbage collector does the rest, by the owner references
        memory = self._remember(resource)
        if not resource.status.get("conditions"):
            await self._write(resource, memory, self._first_sight(resource))
        plan = await self._plan(resource, memory)
        migration, blocker, again = await self._bring(resource, memory, plan)
        observed = await self._observe(resource, memory, plan, migration, blocker)
        return self._next(memory, observed, [again, await self._report(resource, memory, observed)])

    def _remember(self, resource: Resource) -> _Memory:
        memory = self._memory.get(resource.key)
        if memory is None or memory.uid != resource.uid:
            memory = self._memory[resource.key] = _Memory(resource.uid, self._now())
        if memory.generation != resource.generation:
            memory.generation, memory.unsettled_since = resource.generation, self._now()
        return memory

    async def _plan(self, resource: Resource, memory: _Memory) -> _Plan:
        try:
            spec: Spec = parse_spec(resource.key, resource.spec)
        except InvalidDefinition as error:
            blocker = Blocker(Reason.INVALID_SPEC, str(error), stalled=True)
        else:
            memory.good = config_of(resource.key, spec)
            return _Plan(memory.good, spec.state, wanted_replicas(spec))
        if memory.good is None:
            name = owned_name(resource.key)
            memory.good = last_good(await self._cluster.get("ConfigMap", resource.key.namespace, name))
        if memory.good is None:
            return _Plan(None, RunState.RUNNING, 0, blocker)
        spec = scaled(memory.good, resource.spec)
        return _Plan(memory.good, spec.state, wanted_replicas(spec), blocker)

    async def _bring(
        self, resource: Resource, memory: _Memory, plan: _Plan
    ) -> tuple[Migration, Blocker | None, float | None]:
        """Apply what the plan asks for; third is when a repair that was held back may be made."""
        migration = Migration(MigrationPhase.DONE)
        if plan.config is None:
            return migration, plan.blocker, None
        namespace, reference = resource.key.namespace, plan.config.spec.database.url_secret_ref
        try:
            url = await secrets.read_reference(self._cluster, namespace, reference, "spec.database.urlSecretRef")
            if isinstance(url, Blocker):
                return migration, plan.blocker or url, None
            found = await inputs.check(self._cluster, namespace, plan.config.spec)
            if isinstance(found, Blocker):
                return migration, plan.blocker or found, None
            await self.applier.check_names(resource)
            if plan.replicas:
                memory.migration = self._migrations.name(url)
                migration = await self._migrations.ensure(namespace, memory.migration, reference)
            memory.token = await secrets.ensure_token(self._cluster, resource)
            desired = Desired(
                key=resource.key,
                owner_reference=resource.owner_reference,
                config=plan.config,
                replicas=plan.replicas,
                secrets_hash=self._hasher(url, memory.token, *found.rolling),
                image=image_of(plan.config.spec, self._image),
                code_hash=found.code_hash,
            )
            return migration, plan.blocker, await self.applier.bring(desired)
        except NameTaken as error:
            return migration, plan.blocker or Blocker(Reason.NAME_TAKEN, str(error), stalled=True), None
        except ClusterRefused as error:
            return migration, plan.blocker or Blocker(Reason.APPLY_REFUSED, str(error)), None

    async def _observe(
        self, resource: Resource, memory: _Memory, plan: _Plan, migration: Migration, blocker: Blocker | None
    ) -> Observed:
        pods = await self._pods.of(resource.key)
        if pods and not memory.token:
            memory.token = await secrets.read_token(self._cluster, resource)
        observed = Observed(
            generation=resource.generation,
            state=plan.state,
            replicas=plan.replicas,
            revision=revision(plan.config) if plan.config else "",
            selector=selector_text(resource.key),
            workers=tuple(await self._workers.ask(pods, memory.token)),
            migration=migration,
            blocker=blocker,
            trouble=self.applier.trouble(resource.key),
        )
        if memory.migration and any(
            problem.reason is ProblemReason.SCHEMA_OUTDATED
            for worker in observed.workers
            for problem in worker.problems
        ):
            await self._migrations.doubt(resource.key.namespace, memory.migration)
        return observed

    def _first_sight(self, resource: Resource) -> Manifest:
        nothing = Observed(resource.generation, RunState.RUNNING, 0, "", selector_text(resource.key))
        return status.build(resource.key, nothing, conditions.first_sight(), {}, _now_text())

    async def _report(self, resource: Resource, memory: _Memory, observed: Observed) -> float | None:
        """Write the status when it is worth it. Returns the seconds until a write, held back now, is due."""
        verdicts = conditions.verdicts(observed)
        new = status.build(resource.key, observed, verdicts, resource.status, _now_text())
        delay = status.write_delay(resource.status, new, self._now() - memory.written_at)
        if delay == 0:
            await self._write(resource, memory, new)
            return None
        return delay

    async def _write(self, resource: Resource, memory: _Memory, new: Manifest) -> None:
        key = resource.key
        metadata = {"name": key.name, "namespace": key.namespace, "uid": resource.uid}
        await self._cluster.apply_status(
            {"apiVersion": API_VERSION, "kind": key.kind, "metadata": metadata, "status": new}
        )
        memory.written_at = self._now()
        metrics.STATUS_WRITES.labels(key.kind).inc()
        transitions = status.transitions(resource.status, new)
        for condition in transitions:
            logger.info("%s: %s", key, " ".join(str(condition[f]) for f in ("type", "status", "reason", "message")))
        await events.post(self._cluster, resource, transitions, status.new_causes(resource.status, new))

    def _next(self, memory: _Memory, observed: Observed, sooner: list[float | None]) -> float:
        now = self._now()
        if observed.settled:
            memory.unsettled_since = now
            pause = SETTLED_SECONDS
        else:
            pause = UNSETTLED_SECONDS if now - memory.unsettled_since < PATIENCE_SECONDS else WAITING_SECONDS
        pause = max(pause, len(self._memory) / PASSES_PER_SECOND)
        return min([pause, *(seconds for seconds in sooner if seconds is not None)])


def _now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
