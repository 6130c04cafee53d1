"""Keeps the migration Jobs: makes them, makes failed ones again, never waits for one."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from marty_msf.core.resources.spec import SecretKeyRef
from marty_operator.cluster import Cluster
from marty_operator.observation import Migration, MigrationPhase, migration_state
from marty_operator.plan.migration import migration_job, migration_name
from marty_operator.plan.pod import RuntimeImage
from marty_operator.resource import Manifest
from marty_operator.secrets import Hasher

logger = logging.getLogger(__name__)

#: How long a failed Job stays for people to read before it is made again.
RETRY_SECONDS: Final = 10.0
#: A finished Job is run again when workers still miss the schema after this time: the database was replaced.
DOUBT_SECONDS: Final = 30.0


class Migrations:
    """One Job per namespace, database URL and image."""

    def __init__(
        self,
        cluster: Cluster,
        hasher: Hasher,
        image: RuntimeImage,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._hasher = hasher
        self._image = image
        self._now = now
        #: Jobs seen complete: they are not read again in every pass, nor made again once their time to live removed
        #: them. Forgetting them costs one Job that finds nothing to do.
        self._done: set[tuple[str, str]] = set()
        #: Jobs whose last attempt failed: until one succeeds they count as failed, or the conditions would flap.
        self._failed: dict[tuple[str, str], Migration] = {}

    def name(self, url: str) -> str:
        """Of the Job that serves this database. Tells nothing about the URL."""
        return migration_name(self._hasher(url, self._image.name))

    async def ensure(self, namespace: str, name: str, secret: SecretKeyRef) -> Migration:
        """Make the Job when it is missing or failed a while ago, and tell how it stands."""
        identity = (namespace, name)
        if identity in self._done:
            return Migration(MigrationPhase.DONE)
        job = await self._cluster.get("Job", namespace, name)
        if job is None:
            await self._cluster.apply(migration_job(namespace, name, secret, self._image))
        migration = migration_state(job)
        match migration.phase:
            case MigrationPhase.RUNNING:
                return self._failed.get(identity, migration)
            case MigrationPhase.DONE:
                self._done.add(identity)
                self._failed.pop(identity, None)
            case MigrationPhase.FAILED:
                self._failed[identity] = migration
                if job is not None and self._age_seconds(job) > RETRY_SECONDS:
                    await self._delete(job)
        return migration

    async def doubt(self, namespace: str, name: str) -> None:
        """Workers say that the schema is missing: run a Job again that finished before that can be so."""
        job = await self._cluster.get("Job", namespace, name)
        done = job is not None and migration_state(job).phase is MigrationPhase.DONE
        if job is None or (done and self._age_seconds(job) > DOUBT_SECONDS):
            self._done.discard((namespace, name))
            if job is not None:
                await self._delete(job)

    async def _delete(self, job: Manifest) -> None:
        metadata = job["metadata"]
        logger.info("Job %s/%s is made again", metadata["namespace"], metadata["name"])
        await self._cluster.delete("Job", metadata["namespace"], metadata["name"], metadata["uid"])

    def _age_seconds(self, job: Manifest) -> float:
        """Since it ended."""
        ended = [c["lastTransitionTime"] for c in job["status"]["conditions"] if c["status"] == "True"]
        return (self._now() - datetime.fromisoformat(max(ended))).total_seconds()
