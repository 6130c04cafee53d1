"""The shop's manifests as they stand in examples/shop, and the few objects that only a run can make. Pure but for reading."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

SHOP: Final = Path(__file__).resolve().parents[2] / "examples" / "shop"
NAMESPACE: Final = "shop"
#: The image of every service in the manifests; whoever applies them says where the image is.
IMAGE_PLACE: Final = "marty-shop"

Manifest = dict[str, Any]


def read(*names: str) -> list[Manifest]:
    """The documents of the files `examples/shop/k8s/<name>.yaml`."""
    found: list[Manifest] = []
    for name in names:
        text = (SHOP / "k8s" / f"{name}.yaml").read_text()
        found.extend(document for document in yaml.safe_load_all(text) if document)
    return found


def with_image(manifests: Iterable[Manifest], place: str, image: str) -> list[Manifest]:
    """The manifests with every container image called `place` replaced; the originals stay as they are."""
    copies = [deepcopy(manifest) for manifest in manifests]
    for manifest in copies:
        for container in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            if container["image"] == place:
                container["image"] = image
    return copies


def secret(name: str, values: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": values,
    }


def restricted_namespace(name: str) -> Manifest:
    """A namespace under the strictest Pod Security level."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def outside_service(name: str, port: int, address: str, outside_port: int) -> Sequence[Manifest]:
    """A Service without pods: `name:port` in the namespace leads to a server beside the cluster."""
    labels = {"kubernetes.io/service-name": name}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "main", "port": port, "targetPort": outside_port}]},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-outside", "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "main", "port": outside_port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    return service, endpoints
