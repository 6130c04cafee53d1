"""Image layers and archives: equal contents, equal bytes; only what is missing is sent."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dev.cluster.archive import Image, tree, write_archive, write_layer
from dev.cluster.dockerfile import Copy, parse
from dev.cluster.errors import ClusterError
from dev.cluster.images import DOCKERFILES
from dev.cluster.wheels import CONSTRAINTS, Requirements, subtract


def given_tree(root: Path, mode: int = 0o644) -> Path:
    (root / "package").mkdir(parents=True)
    (root / "package" / "module.py").write_text("answer = 42\n")
    (root / "package" / "module.py").chmod(mode)
    (root / "link").symlink_to("package")
    return root


def test_a_layer_depends_on_contents_and_not_on_times_owners_or_umask(tmp_path: Path) -> None:
    first = write_layer(tree(given_tree(tmp_path / "a"), "app/code"), tmp_path / "a.tar")
    second_tree = given_tree(tmp_path / "b", mode=0o600)
    os.utime(second_tree / "package" / "module.py", (1, 1))
    second = write_layer(tree(second_tree, "app/code"), tmp_path / "b.tar")

    assert first.digest == second.digest


def test_a_layer_names_parents_first_and_keeps_links(tmp_path: Path) -> None:
    write_layer(tree(given_tree(tmp_path / "a"), "app/code"), tmp_path / "a.tar")

    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
        assert names == ["app", "app/code", "app/code/link", "app/code/package", "app/code/package/module.py"]
        assert tar.getmember("app/code/link").issym()


def test_an_archive_holds_what_its_index_names_under_the_right_digests(tmp_path: Path) -> None:
    layer = write_layer(tree(given_tree(tmp_path / "a"), "app"), tmp_path / "a.tar")
    image = Image((layer,), {"Entrypoint": ["python3"]})
    write_archive({"localhost/x:1": image, "localhost/x:dev": image}, tmp_path / "image.tar")

    blobs = _blobs(tmp_path / "image.tar")
    for digest, content in blobs.items():
        assert hashlib.sha256(content).hexdigest() == digest
    index = json.loads(_member(tmp_path / "image.tar", "index.json"))
    manifest = json.loads(blobs[index["manifests"][0]["digest"].removeprefix("sha256:")])
    config = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    assert config["rootfs"]["diff_ids"] == [layer.digest] == [entry["digest"] for entry in manifest["layers"]]
    assert [entry["RepoTags"] for entry in json.loads(_member(tmp_path / "image.tar", "manifest.json"))] == [
        ["localhost/x:1"],
        ["localhost/x:dev"],
    ]


def test_layers_the_reader_has_are_left_out(tmp_path: Path) -> None:
    layer = write_layer(tree(given_tree(tmp_path / "a"), "app"), tmp_path / "a.tar")
    write_archive({"localhost/x:1": Image((layer,))}, tmp_path / "i.tar", leave_out=frozenset({layer.digest}))

    assert layer.digest.removeprefix("sha256:") not in _blobs(tmp_path / "i.tar")


def test_a_tag_follows_the_layers_and_the_way_the_image_runs(tmp_path: Path) -> None:
    layer = write_layer(tree(given_tree(tmp_path / "a"), "app"), tmp_path / "a.tar")
    other = write_layer(tree(given_tree(tmp_path / "a2"), "elsewhere"), tmp_path / "b.tar")

    keys = {Image((layer,)).key, Image((layer, other)).key, Image((layer,), {"User": "1"}).key}
    assert len(keys) == 3
    assert Image((layer,)).key == Image((layer,)).key


@pytest.mark.parametrize("dockerfile", sorted(DOCKERFILES.glob("Dockerfile.*")), ids=lambda path: path.name)
def test_our_dockerfiles_are_understood_and_run_without_root(dockerfile: Path) -> None:
    recipe = parse(dockerfile.read_text())

    assert recipe.copies
    assert recipe.run_config["Entrypoint"]
    assert int(recipe.run_config["User"].partition(":")[0]) > 0


def test_a_dockerfile_says_what_is_copied_and_how_it_runs() -> None:
    recipe = parse('ARG BASE=x\nFROM ${BASE}\n# why\nCOPY code/x /app/code/\nENV A=1 \\\n B="2 3"\nENTRYPOINT ["a"]\n')

    assert recipe.copies == (Copy("code/x", "app/code"),)
    assert recipe.run_config["Env"][-2:] == ["A=1", "B=2 3"]
    assert recipe.run_config["Entrypoint"] == ["a"]


@pytest.mark.parametrize("line", ["RUN pip install x", "FROM debian", "COPY a b /c", "HEALTHCHECK NONE"])
def test_what_a_dockerfile_may_not_say_here_is_refused(line: str) -> None:
    with pytest.raises(ClusterError, match="not known here"):
        parse(line)


def test_the_images_pin_a_version_that_pyproject_allows_of_every_package_it_asks_for() -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    project = Requirements.of_project()

    wrong = [
        f"{wanted} is pinned to {pins.get(canonicalize_name(wanted.name), 'no version')}"
        for wanted in map(Requirement, project.runtime + project.operator)
        if pins.get(canonicalize_name(wanted.name), "") not in wanted.specifier
    ]

    assert not wrong, f"{'; '.join(wrong)}: renew dev/images/constraints.txt as its first lines say"


def test_subtract_keeps_new_and_changed_files_only(tmp_path: Path) -> None:
    for root, files in {
        "whole": {"same": "1", "d/changed": "2", "d/new": "3"},
        "lower": {"same": "1", "d/changed": "0"},
    }.items():
        for name, text in files.items():
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).write_text(text)

    subtract(tmp_path / "whole", tmp_path / "lower", tmp_path / "rest")

    assert sorted(str(p.relative_to(tmp_path / "rest")) for p in (tmp_path / "rest").rglob("*") if p.is_file()) == [
        "d/changed",
        "d/new",
    ]


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def _blobs(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        names = [name for name in tar.getnames() if name.startswith("blobs/sha256/")]
    return {name.rpartition("/")[2]: _member(archive, name) for name in names}
