"""The steps from sources to images in the cluster; what a step makes lies in the cache, where the next one finds it."""

from pathlib import Path

from dev.cluster import base_image, images, wheels
from dev.cluster.archive import Image, write_archive
from dev.cluster.layout import Layout
from dev.cluster.progress import Step
from dev.cluster.tasks import Task
from dev.cluster.wheels import Requirements


def build_tasks(layout: Layout) -> list[Task]:
    """To be run with the task `packages`, whose debootstrap the base needs."""
    return [
        Task("base", "image base (Debian and Python)", lambda step: _base(layout, step), ("packages",)),
        Task("wheels", "Python packages of the images", lambda step: _wheels(layout, step)),
        Task("images", "images", lambda step: _build(layout, step), ("base", "wheels")),
    ]


def load_task(layout: Layout, *needs: str) -> Task:
    return Task("load", "images into the cluster", lambda step: _load(layout, step), ("images", *needs))


def context_task(layout: Layout, target: Path) -> Task:
    return Task(
        "context", f"build context in {target}", lambda step: built(layout, step)[1].copy_to(target), ("images",)
    )


def archive_task(layout: Layout, target: Path) -> Task:
    return Task("archive", f"archive {target}", lambda step: write_archive(built(layout, step)[0], target), ("images",))


def built(layout: Layout, step: Step) -> tuple[dict[str, Image], images.Context]:
    """The images of the sources as they are now, and the context they come from; quick when nothing changed."""
    requirements = Requirements.of_project()
    context = images.prepare_context(wheels.install(requirements, layout, step), requirements, layout)
    return images.build(context, base_image.build(layout, step), layout), context


def _base(layout: Layout, step: Step) -> None:
    base_image.build(layout, step)


def _wheels(layout: Layout, step: Step) -> None:
    wheels.install(Requirements.of_project(), layout, step)


def _build(layout: Layout, step: Step) -> None:
    built(layout, step)


def _load(layout: Layout, step: Step) -> None:
    names = images.load(built(layout, step)[0], layout)
    step.note(f"{len(names)} new")
