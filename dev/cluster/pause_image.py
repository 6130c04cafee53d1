"""The image every pod's first container runs: one static program."""

from pathlib import Path
from tempfile import TemporaryDirectory

from dev.cluster import content_store
from dev.cluster.archive import Image, write_archive, write_layer
from dev.cluster.binaries import PAUSE
from dev.cluster.configs import PAUSE_IMAGE
from dev.cluster.layout import Layout


def load(layout: Layout) -> None:
    """Put it into the running containerd unless it is there."""
    if PAUSE_IMAGE in content_store.image_names(layout):
        return
    with TemporaryDirectory(prefix="marty-pause-") as directory:
        layer = write_layer([("pause", PAUSE.path(layout))], Path(directory, "layer.tar"))
        image = Image((layer,), {"Entrypoint": ["/pause"], "User": "65535:65535"})
        archive = Path(directory, "image.tar")
        write_archive({PAUSE_IMAGE: image}, archive)
        content_store.import_archive(layout, archive)
