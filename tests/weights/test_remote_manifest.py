"""Manifests of models at a hub or in a bucket: the same as of the original folder, of bytes that were compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.fetched_files import FAST, bucket_environment, read
from support.tiny_checkpoint import PLAIN, make_checkpoint
from support.user_commands import command, new_user, one_line
from support.weight_stores import BUCKET, REPOSITORY, Bucket, FileServer, Hub, Web

from services.checkpoint.reader import Checkpoint
from services.weights.address import parse_address
from services.weights.errors import BadSource, Damaged
from services.weights.fetch import Options
from services.weights.hub import HubSource
from services.weights.manifest import BLOCK_BYTES, FILE, Manifest, make_manifest, parse_manifest
from services.weights.remote_manifest import manifest_of_source
from services.weights.source import RemoteFile, Source
from services.weights.stores import open_source

SIZES = {"hidden_size": 256, "expert_ffn_hidden_size": 256, "n_routed_experts": 16}
SHARD = "model-00001-of-00002.safetensors"
PLACE = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose files have several blocks."""
    path = make_checkpoint(tmp_path_factory.mktemp("manifest") / "original", PLAIN | SIZES, seed=6, shards=2)
    assert (path / SHARD).stat().st_size > 2 * BLOCK_BYTES
    return path


@pytest.fixture(scope="module")
def expected(original: Path) -> Manifest:
    return make_manifest(original, Checkpoint.open(original).digest, lambda *_: None)


@pytest.fixture
def bucket(original: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with Bucket(read(original)) as server:
        for name, value in bucket_environment(server).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def hub(original: Path) -> Iterator[Hub]:
    with Hub(read(original)) as server:
        yield server


def made(source: Source, scratch: Path, *, blocks: bool = True) -> Manifest:
    scratch.mkdir(exist_ok=True)
    reports: list[tuple[int, int]] = []
    found = manifest_of_source(
        source, scratch, Options(retry=FAST), lambda *so_far: reports.append(so_far), blocks=blocks
    )
    assert not reports or reports[-1][0] == reports[-1][1], "all of it was counted in the end"
    return found


def in_bucket() -> Source:
    return open_source(parse_address(PLACE))


def at_hub(hub: Hub) -> Source:
    return HubSource(parse_address(f"hf://{REPOSITORY}@v1"), hub.url)


def without_blocks(manifest: Manifest) -> Manifest:
    return Manifest(manifest.digest, {name: replace(one, blocks=()) for name, one in manifest.files.items()})


def share_of_weights(server: FileServer) -> float:
    """Bytes of weights that were asked for, of all there are."""
    weights = {name: len(content) for name, content in server.files.items() if name.endswith(".safetensors")}
    return sum(map(server.bytes_asked, weights)) / sum(weights.values())


def test_it_is_that_of_the_original(bucket: Bucket, hub: Hub, expected: Manifest, tmp_path: Path) -> None:
    assert made(in_bucket(), tmp_path / "a") == expected
    assert made(at_hub(hub), tmp_path / "b") == expected
    bucket.etags = dict.fromkeys(bucket.files, "opaque")
    assert made(in_bucket(), tmp_path / "c") == expected, "of files without a digest by what was read"
    with Web(hub.files) as web:
        assert made(open_source(parse_address(web.address)), tmp_path / "d") == expected


def test_nothing_of_the_weights_is_kept_but_their_ends(bucket: Bucket, tmp_path: Path) -> None:
    made(in_bucket(), tmp_path)
    kept = sum(one.stat().st_blocks * 512 for one in tmp_path.glob("*.safetensors"))
    assert kept < sum(len(content) for content in bucket.files.values()) / 4


def test_weights_are_not_read_where_the_source_has_their_sha256(
    bucket: Bucket, hub: Hub, expected: Manifest, tmp_path: Path
) -> None:
    assert made(at_hub(hub), tmp_path / "hub", blocks=False) == without_blocks(expected)
    assert share_of_weights(hub) < 0.5
    assert made(in_bucket(), tmp_path / "bucket", blocks=False) == without_blocks(expected)
    assert share_of_weights(bucket) > 1, "an MD5 is not what a manifest has"


def test_what_breaks_off_goes_on(hub: Hub, expected: Manifest, tmp_path: Path) -> None:
    hub.faults.cut_after[SHARD] = 5_000_000
    hub.faults.refused = 2
    assert made(at_hub(hub), tmp_path) == expected
    assert 5_000_000 in hub.begins(SHARD)


class FlippedOnce:
    """A source of which the first bytes of one file are others when it is read as a whole for the first time."""

    def __init__(self, source: Source, name: str) -> None:
        self._source, self._left = source, [name]
        self.address, self.pinned, self.files = source.address, source.pinned, source.files

    def read(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        pieces = self._source.read(file, begin, end)
        if end - begin == file.size and file.name in self._left:
            self._left.remove(file.name)
            first = next(pieces)
            yield bytes([first[0] ^ 1]) + first[1:]
        yield from pieces


def test_bytes_that_are_not_those_of_the_sources_digest_make_no_manifest(
    bucket: Bucket, expected: Manifest, tmp_path: Path
) -> None:
    assert made(FlippedOnce(in_bucket(), SHARD), tmp_path / "a") == expected, "it was read again"
    bucket.etags[SHARD] = "0" * 32
    with pytest.raises(Damaged, match=rf"^{SHARD}: its bytes have [0-9a-f]+, not md5 0+; it was read 2 times"):
        made(in_bucket(), tmp_path / "b")


def test_a_manifest_that_lies_there_says_nothing(bucket: Bucket, expected: Manifest, tmp_path: Path) -> None:
    stale = {name: replace(one, size=one.size + 1) for name, one in expected.files.items()}
    bucket.files[FILE] = Manifest("0" * 64, stale).to_json().encode()
    assert made(in_bucket(), tmp_path) == expected


@pytest.mark.parametrize("length", [0, 7, 8, 20])
def test_a_file_that_is_no_safetensors_is_named(bucket: Bucket, tmp_path: Path, length: int) -> None:
    bucket.files[SHARD] = b"\xff" * length
    with pytest.raises(BadSource, match=rf"^{SHARD}: its header of \d+ bytes is not in {length} bytes"):
        made(in_bucket(), tmp_path)


@pytest.mark.processes
def test_the_command_and_slices_by_what_it_wrote(bucket: Bucket, expected: Manifest, tmp_path: Path) -> None:
    user = new_user(tmp_path) | bucket_environment(bucket)
    file = tmp_path / "made.json"
    done = command(user, "manifest", PLACE, "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{file}: {len(expected.files)} files\n"
    assert parse_manifest(file.read_bytes()) == expected
    sliced = command(user, "fetch", "--slices", "--manifest", str(file), PLACE, str(tmp_path / "model"))
    assert sliced.returncode == 0, sliced.stderr
    assert not list((tmp_path / "tmp").iterdir()), "the scratch folder goes with the command"
    for words, why in (
        (("manifest", str(tmp_path), "--no-blocks"), "--no-blocks goes with an address"),
        (("manifest", "hf://org/model"), "without a revision"),
        (("manifest", f"{PLACE}/nothing"), "has no files"),
    ):
        assert why in one_line(command(user, *words))
