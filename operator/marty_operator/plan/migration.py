"""The Job that brings a database to the newest schema: one per database and image, shared by resources, owned by none."""

from typing import Final

from marty_msf.core.resources.spec import SecretKeyRef
from marty_operator.plan import pod
from marty_operator.plan.labels import MANAGED_BY, OPERATOR
from marty_operator.resource import Manifest

#: One attempt: the operator deletes a failed Job and makes it again, so no failure is final and no pods pile up.
BACKOFF_LIMIT: Final = 0
WAIT_SECONDS: Final = 60
#: Also of a Job whose pod cannot start: time to pull the image on a slow network, to wait for the database, to migrate.
DEADLINE_SECONDS: Final = 900
#: Nobody owns the Job, so it goes by itself. A success is remembered by the operator; done again it finds nothing to do.
KEEP_SECONDS: Final = 600


def migration_name(digest: str) -> str:
    """`digest` is a keyed hash of (database URL, image), so the name tells nothing about the URL."""
    return f"marty-migrate-{digest[:16]}"


def migration_job(namespace: str, name: str, secret: SecretKeyRef, image: pod.RuntimeImage) -> Manifest:
    """Ends by itself and goes by itself: also when every resource that needed it is gone."""
    labels = {
        MANAGED_BY: OPERATOR,
        "app.kubernetes.io/name": "marty-migrate",
        "app.kubernetes.io/part-of": "marty",
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": pod.pod_security(),
                    "containers": [
                        {
                            "name": "migrate",
                            **image.fields,
                            "args": ["migrate", "--wait-seconds", str(WAIT_SECONDS)],
                            "env": [pod.database_url(secret)],
                            "resources": pod.resources(),
                            "securityContext": pod.container_security(),
                            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                        }
                    ],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }
