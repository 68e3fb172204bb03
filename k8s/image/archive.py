"""Writes an OCI image archive from folders: one uncompressed layer each, owned by root and without times, so that equal
folders give equal digests."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Document = dict[str, object]
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A file of the archive, named by its digest (sha256, hexadecimal)."""

    path: Path
    digest: str
    media_type: str

    def descriptor(self) -> Document:
        return {"mediaType": self.media_type, "digest": f"sha256:{self.digest}", "size": self.path.stat().st_size}


def write_archive(
    output: Path,
    name: str,
    config: Document,
    layers: list[Path],
    work: Path,
    others: Mapping[str, Document] | None = None,
) -> str:
    """Writes the image `name` ([registry/]repository:tag) to `output`; returns the digest of its manifest.

    `config` is the OCI image's `config` object; `layers` are folders, whose content becomes `/`. `others`: further
    images of the same layers, {name: config}.
    """
    work.mkdir(parents=True, exist_ok=True)
    blobs = [_layer(folder, work / f"layer{number}.tar") for number, folder in enumerate(layers)]
    images = [
        (full_name(name), *_image(config, blobs, work / str(number)))
        for number, (name, config) in enumerate([(name, config), *(others or {}).items()])
    ]
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [_named(full, one) for full, _, one in images]}
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for blob in (*(blob for _, *own in images for blob in own), *blobs):
            archive.add(blob.path, arcname=f"blobs/sha256/{blob.digest}", filter=_plain)
    return f"sha256:{images[0][2].digest}"


def _image(config: Document, layers: list[Blob], work: Path) -> tuple[Blob, Blob]:
    """An image's settings and its manifest."""
    work.mkdir(exist_ok=True)
    digests = [f"sha256:{blob.digest}" for blob in layers]
    image: Document = {"architecture": "amd64", "os": "linux", "config": config}
    image |= {"rootfs": {"type": "layers", "diff_ids": digests}, "history": [{"created_by": "caracal"} for _ in layers]}
    settings = _document(image, _CONFIG, work / "config.json")
    manifest: Document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": settings.descriptor()}
    manifest |= {"layers": [blob.descriptor() for blob in layers]}
    return settings, _document(manifest, _MANIFEST, work / "manifest.json")


def _named(full: str, manifest: Blob) -> Document:
    """As BuildKit writes it: containerd and Docker read the first annotation, Skopeo and Podman the second."""
    annotations = {"io.containerd.image.name": full, "org.opencontainers.image.ref.name": full.rpartition(":")[2]}
    return {**manifest.descriptor(), "annotations": annotations}


def full_name(name: str) -> str:
    """Returns the name that a kubelet looks up for `name`: caracal:1 is docker.io/library/caracal:1. containerd keeps
    the archive's name as it is, so a short one would never be found. Raises ValueError on a name without a tag."""
    if ":" not in name.rpartition("/")[2]:
        raise ValueError(f"the image's name {name!r} has no tag")
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def _layer(folder: Path, path: Path) -> Blob:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as layer:
        for member in _walk(folder):
            layer.add(member, arcname=str(member.relative_to(folder)), recursive=False, filter=_plain)
    return Blob(path, _digest(path), _LAYER)


def _walk(folder: Path) -> Iterator[Path]:
    for member in sorted(folder.iterdir()):
        yield member
        if member.is_dir() and not member.is_symlink():
            yield from _walk(member)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _document(document: Document, media_type: str, path: Path) -> Blob:
    path.write_text(json.dumps(document, sort_keys=True))
    return Blob(path, _digest(path), media_type)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
