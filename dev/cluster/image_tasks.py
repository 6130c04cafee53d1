"""The steps from sources to images in the cluster; what a step makes lies in the cache, where the next one finds it."""

from dataclasses import dataclass
from pathlib import Path

from dev.cluster import base_image, images, wheels
from dev.cluster.archive import Image, write_archive
from dev.cluster.layout import Layout
from dev.cluster.progress import Step
from dev.cluster.tasks import Task
from dev.cluster.wheels import Requirements


@dataclass(frozen=True, slots=True)
class ImageBuild:
    """Our images, and with `servers` those of Postgres and Kafka."""

    layout: Layout
    servers: bool = False

    def tasks(self) -> list[Task]:
        """To be run with the task `packages`, whose debootstrap the base needs."""
        return [
            Task("base", "image base (Debian and Python)", self._base, ("packages",)),
            Task("wheels", "Python packages of the images", self._wheels, ("packages",)),
            Task("images", "images", self._images, ("base", "wheels")),
        ]

    def load_task(self, *needs: str) -> Task:
        return Task("load", "images into the cluster", self._load, ("images", *needs))

    def context_task(self, target: Path) -> Task:
        return Task("context", f"context in {target}", lambda step: self.built(step)[1].copy_to(target), ("images",))

    def archive_task(self, target: Path) -> Task:
        return Task(
            "archive", f"archive {target}", lambda step: write_archive(self.built(step)[0], target), ("images",)
        )

    def built(self, step: Step) -> tuple[dict[str, Image], images.Context]:
        """The images of the sources as they are now, and the context they come from; quick when nothing changed."""
        requirements = Requirements.of_project()
        base = base_image.build(self.layout, step)
        context = images.prepare_context(wheels.install(requirements, self.layout, step), requirements, self.layout)
        purposes = [*images.CODE]
        if self.servers:
            context = images.add_servers(context, base, self.layout, step)
            purposes += images.SERVERS
        return images.build(purposes, context, base, self.layout), context

    def _base(self, step: Step) -> None:
        base_image.build(self.layout, step)

    def _wheels(self, step: Step) -> None:
        wheels.install(Requirements.of_project(), self.layout, step)

    def _images(self, step: Step) -> None:
        self.built(step)

    def _load(self, step: Step) -> None:
        names = images.load(self.built(step)[0], self.layout)
        step.note(f"{len(names)} new")
