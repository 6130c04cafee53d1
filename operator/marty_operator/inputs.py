"""What pods mount must be there before they are made: the Secrets that a spec names."""

from marty_msf.core.resources.spec import Workload
from marty_operator import secrets
from marty_operator.cluster import Cluster
from marty_operator.observation import Blocker
from marty_operator.plan.files import named_secrets


async def missing(cluster: Cluster, namespace: str, spec: Workload) -> Blocker | None:
    """The first Secret or key that is not there. What is in them changes in running pods by itself."""
    for secret in named_secrets(spec):
        found = await secrets.read_reference(cluster, namespace, secret.reference, secret.path)
        if isinstance(found, Blocker):
            return found
    return None
