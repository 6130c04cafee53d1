"""Reading the Secrets a resource names, making its token, and hashes of them that nobody can turn back by guessing.

Secret values stay in local variables: they go into no manifest, annotation, status, event or log.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final

from marty_msf.core.resources.spec import SecretKeyRef
from marty_operator.cluster import AlreadyExists, Cluster, ClusterUnavailable
from marty_operator.observation import Blocker, Reason
from marty_operator.plan.labels import MANAGED_BY, OPERATOR
from marty_operator.plan.workload import TOKEN_KEY, owned_name, token_secret
from marty_operator.resource import Manifest, Resource

HASH_KEY_SECRET: Final = "marty-operator-hash-key"  # noqa: S105  # its name
_HASH_KEY: Final = "key"


class Hasher:
    """Keyed hashes: an annotation shows that a secret changed without allowing to try passwords against it."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, *parts: str) -> str:
        """Sixteen hex digits of the parts in this order."""
        message = b"".join(len(data).to_bytes(8, "big") + data for data in (part.encode() for part in parts))
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:16]


async def ensure_hasher(cluster: Cluster, namespace: str) -> Hasher:
    """The key is made once per installation; losing it only means that all pods roll once."""
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": HASH_KEY_SECRET, "namespace": namespace, "labels": {MANAGED_BY: OPERATOR}},
        "stringData": {_HASH_KEY: secrets.token_hex(32)},
    }
    found = await _get_or_create(cluster, manifest)
    return Hasher(value(found, _HASH_KEY).encode())


async def ensure_token(cluster: Cluster, resource: Resource) -> str:
    """The resource's bearer token; made when the Secret is missing or was emptied, never rewritten otherwise."""
    manifest = token_secret(resource.key, resource.owner_reference, secrets.token_urlsafe(32))
    found = await _get_or_create(cluster, manifest)
    token = value(found, TOKEN_KEY)
    return token or value(await cluster.apply(manifest), TOKEN_KEY)


async def read_token(cluster: Cluster, resource: Resource) -> str:
    """The token if there is one, else empty: asks for nothing to be made."""
    found = await cluster.get("Secret", resource.key.namespace, owned_name(resource.key))
    return value(found or {}, TOKEN_KEY)


async def read_reference(cluster: Cluster, namespace: str, reference: SecretKeyRef, path: str) -> str | Blocker:
    """The value behind a secretKeyRef, or why there is none; `path` is the field that names it."""
    found = await cluster.get("Secret", namespace, reference.name)
    if found is None:
        return Blocker(
            Reason.SECRET_NOT_FOUND,
            f"{path}: Secret {reference.name!r} does not exist in namespace {namespace!r}: create it or correct the name",
        )
    text = value(found, reference.key)
    if not text and reference.key in (found.get("data") or {}):
        return Blocker(
            Reason.SECRET_KEY_MISSING,
            f"{path}: key {reference.key!r} of Secret {reference.name!r} is empty or no UTF-8 text: correct its value",
        )
    if not text:
        keys = ", ".join(sorted(found.get("data") or {})) or "none"
        return Blocker(
            Reason.SECRET_KEY_MISSING,
            f"{path}: Secret {reference.name!r} has no key {reference.key!r} (it has: {keys}): add it or correct the key",
        )
    return text


def value(secret: Manifest, key: str) -> str:
    """Decoded, empty when the key is missing or no text."""
    try:
        return base64.b64decode((secret.get("data") or {}).get(key, ""), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def _get_or_create(cluster: Cluster, manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    found = await cluster.get("Secret", metadata["namespace"], metadata["name"])
    if found is not None:
        return found
    try:
        return await cluster.create(manifest)
    except AlreadyExists as error:
        raise ClusterUnavailable(str(error)) from error
