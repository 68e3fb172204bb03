"""The image builder: the archive is a valid OCI layout, and agrees with the Dockerfile."""

import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest
from support.chart_objects import Chart, containers, pod_specs

from k8s.image import __main__ as image
from k8s.image import debian
from k8s.image.archive import full_name, write_archive
from k8s.tools.values import default_image

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "usr/bin").mkdir(parents=True)
    (first / "usr/bin/tool").write_text("#!/bin/true\n")
    (first / "usr/bin/tool").chmod(0o755)
    (first / "usr/bin/alias").symlink_to("tool")
    (second / "app").mkdir(parents=True)
    (second / "app/file").write_text("content")
    return [first, second]


def _blob(archive: tarfile.TarFile, descriptor: dict[str, object]) -> bytes:
    digest = str(descriptor["digest"]).removeprefix("sha256:")
    member = archive.extractfile(f"blobs/sha256/{digest}")
    assert member is not None
    content = member.read()
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) == descriptor["size"]
    return content


def test_archive_is_an_oci_layout(folders: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "image.tar"
    digest = write_archive(output, "registry.local/name:7", {"User": "1:1"}, folders, tmp_path / "work")
    with tarfile.open(output) as archive:
        layout, index_file = archive.extractfile("oci-layout"), archive.extractfile("index.json")
        assert layout is not None
        assert index_file is not None
        assert json.load(layout) == {"imageLayoutVersion": "1.0.0"}
        index = json.load(index_file)
        assert index["manifests"][0]["digest"] == digest
        assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "registry.local/name:7"
        manifest = json.loads(_blob(archive, index["manifests"][0]))
        config = json.loads(_blob(archive, manifest["config"]))
        assert config["config"] == {"User": "1:1"}
        layers = [_blob(archive, layer) for layer in manifest["layers"]]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("caracal:1", "docker.io/library/caracal:1"),
        ("me/caracal:1", "docker.io/me/caracal:1"),
        ("me/group/caracal:1", "docker.io/me/group/caracal:1"),
        ("registry.local/caracal:1", "registry.local/caracal:1"),
        ("registry:5000/caracal:1", "registry:5000/caracal:1"),
        ("localhost/caracal:1", "localhost/caracal:1"),
    ],
)
def test_archive_has_the_name_that_a_kubelet_looks_up(
    folders: list[Path], tmp_path: Path, name: str, full: str
) -> None:
    assert full_name(name) == full
    write_archive(tmp_path / "image.tar", name, {}, folders, tmp_path / "work")
    with tarfile.open(tmp_path / "image.tar") as archive:
        index_file = archive.extractfile("index.json")
        assert index_file is not None
        annotations = json.load(index_file)["manifests"][0]["annotations"]
    assert annotations == {"io.containerd.image.name": full, "org.opencontainers.image.ref.name": "1"}


@pytest.mark.parametrize("name", ["caracal", "registry:5000/caracal"])
def test_a_name_without_a_tag_is_rejected(folders: list[Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="has no tag"):
        write_archive(tmp_path / "image.tar", name, {}, folders, tmp_path / "work")


@pytest.mark.processes
def test_pods_use_the_image_that_make_image_builds(chart: Chart) -> None:
    images = {container["image"] for _, spec in pod_specs(chart.render()) for container in containers(spec)}
    assert images == {default_image()}
    assert f"IMAGE ?= {default_image()}\n" in (REPOSITORY / "Makefile").read_text()


def test_layers_keep_modes_and_links_and_belong_to_root(folders: list[Path], tmp_path: Path) -> None:
    write_archive(tmp_path / "image.tar", "name:1", {}, folders, tmp_path / "work")
    with tarfile.open(tmp_path / "work/layer0.tar") as layer:
        members = {member.name: member for member in layer.getmembers()}
    assert members["usr/bin/tool"].mode & 0o777 == 0o755
    assert members["usr/bin/alias"].linkname == "tool"
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}


def test_equal_folders_give_equal_digests(folders: list[Path], tmp_path: Path) -> None:
    first = write_archive(tmp_path / "a.tar", "name:1", {}, folders, tmp_path / "a")
    (folders[1] / "app/file").touch()
    assert write_archive(tmp_path / "b.tar", "name:1", {}, folders, tmp_path / "b") == first
    (folders[1] / "app/file").write_text("other")
    assert write_archive(tmp_path / "c.tar", "name:1", {}, folders, tmp_path / "c") != first


def test_dockerfile_and_builder_make_the_same_image() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    stages = dict(
        re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)[i][::-1] for i in range(text.count("\nFROM "))
    )
    assert image.EXTRAS.keys() <= stages.keys()
    assert (
        set(re.findall(r"^USER (\S+)$", text, re.MULTILINE))
        == {image.CONFIG["User"]}
        == {f"{debian.USER}:{debian.USER}"}
    )
    for target in image.EXTRAS:  # whose extras a lock has: tests/repository/test_locks.py
        assert f"COPY requirements/{target}.txt requirements.txt\n" in text
    assert re.findall(r"^CMD (.+)$", text, re.MULTILINE) == [json.dumps(image.CONFIG["Cmd"])] * len(image.EXTRAS)
    assert set(re.findall(r"^WORKDIR (\S+)$", text, re.MULTILINE)) == {image.CONFIG["WorkingDir"]}


def test_gateway_target_has_no_torch() -> None:
    assert "worker" not in image.EXTRAS["gateway"].split(",")
    text = (REPOSITORY / "Dockerfile").read_text()
    gateway = text[text.index("AS gateway-build") : text.index("AS worker-build")]
    assert "torch" not in gateway.partition("# Torch")[0]


def test_one_archive_may_have_several_images_of_the_same_files(folders: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "image.tar"
    write_archive(output, "name:1", {"Env": ["A=1"]}, folders, tmp_path / "work", {"name:2": {"Env": ["A=2"]}})
    with tarfile.open(output) as archive:
        index_file = archive.extractfile("index.json")
        assert index_file is not None
        found = {}
        for descriptor in json.load(index_file)["manifests"]:
            manifest = json.loads(_blob(archive, descriptor))
            config = json.loads(_blob(archive, manifest["config"]))["config"]
            found[descriptor["annotations"]["io.containerd.image.name"]] = config, manifest["layers"]
        names = archive.getnames()
    assert {name: config for name, (config, _) in found.items()} == {
        "docker.io/library/name:1": {"Env": ["A=1"]},
        "docker.io/library/name:2": {"Env": ["A=2"]},
    }
    assert len({json.dumps(layers) for _, layers in found.values()}) == 1
    assert len(names) == len(set(names)), "each layer is there once"
