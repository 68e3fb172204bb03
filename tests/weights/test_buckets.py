"""Models in buckets, over the protocol of S3 and that of Google Cloud Storage: digests from ETags, changes, faults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fetched_files import LARGE, SMALL, bucket_environment, fetched, model_files, read, wanted
from support.weight_stores import BUCKET, Bucket

from services.weights.address import parse_address
from services.weights.digests import MD5, MD5_OF_PARTS, SHA256, Digest, etag_digest, hasher
from services.weights.errors import BadSource, Damaged, SourceUnavailable
from services.weights.manifest import BLOCK_BYTES, FILE, make_manifest
from services.weights.source import Source
from services.weights.stores import open_source

PREFIX = "models/flash/"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with Bucket(model_files(), PREFIX) as server:
        for name, value in bucket_environment(server).items():
            monkeypatch.setenv(name, value)
        yield server


def source(place: str = f"s3://{BUCKET}/{PREFIX}") -> Source:
    return open_source(parse_address(place))


def multipart_etag(content: bytes, part: int) -> str:
    parts = [hashlib.md5(content[at : at + part]).digest() for at in range(0, len(content), part)]
    return f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def test_a_folder_of_a_bucket_is_fetched(bucket: Bucket, tmp_path: Path) -> None:
    done = fetched(source(), tmp_path)
    assert read(tmp_path) == wanted(model_files())
    assert done.address == f"s3://{BUCKET}/models/flash"


def test_google_cloud_storage(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = {
        "gcs_base_url": bucket.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    fetched(source(f"gs://{BUCKET}/{PREFIX}"), tmp_path / "model")
    assert read(tmp_path / "model") == wanted(model_files())


def test_a_file_uploaded_in_parts_is_compared_too(bucket: Bucket, tmp_path: Path) -> None:
    large = bytes(range(256)) * (20 << 12)  # 20 MiB: three parts of 8 MiB
    bucket.files[f"{PREFIX}{LARGE}"] = large
    bucket.etags[f"{PREFIX}{LARGE}"] = multipart_etag(large, 8 << 20)
    bucket.faults.damaged[f"{PREFIX}{LARGE}"] = 1
    fetched(source(), tmp_path)
    assert read(tmp_path)[LARGE] == large
    assert bucket.begins(f"{PREFIX}{LARGE}") == [0, 16 << 20] * 2, "in pieces, and again when the digest was wrong"


def test_damaged_twice_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    bucket.faults.damaged[f"{PREFIX}{SMALL}"] = 2
    with pytest.raises(Damaged, match=rf"{SMALL}: its bytes have [0-9a-f]+, not md5"):
        fetched(source(), tmp_path)
    assert SMALL not in read(tmp_path)


def test_without_a_digest_a_file_is_refused_unless_that_is_wanted(bucket: Bucket, tmp_path: Path) -> None:
    bucket.etags[f"{PREFIX}{LARGE}"] = "opaque"
    with pytest.raises(BadSource, match=rf"{LARGE}: s3://.* has no digest .* `caracal manifest`"):
        fetched(source(), tmp_path)
    assert not bucket.ranges
    fetched(source(), tmp_path, unverified=True)
    assert read(tmp_path) == wanted(model_files())


def test_a_manifest_beside_the_weights_has_the_digests(bucket: Bucket, tmp_path: Path) -> None:
    for name, content in wanted(model_files()).items():
        path = tmp_path / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        bucket.etags[f"{PREFIX}{name}"] = "opaque"
    manifest = make_manifest(tmp_path / "original", "a" * 64, lambda *_: None)
    bucket.files[f"{PREFIX}{FILE}"] = manifest.to_json().encode()
    bucket.faults.damaged[f"{PREFIX}{LARGE}"] = 1
    fetched(source(), tmp_path / "model")
    assert read(tmp_path / "model") == wanted(model_files())
    bucket.files[f"{PREFIX}{SMALL}"] = b"other"
    with pytest.raises(BadSource, match=rf"{SMALL}: has 5 bytes, and 700001 in {FILE}"):
        fetched(source(), tmp_path / "another")


def test_an_object_that_is_replaced_meanwhile_is_not_mixed(bucket: Bucket, tmp_path: Path) -> None:
    large = bytes(40 << 20)
    bucket.files[f"{PREFIX}{LARGE}"] = large
    found = source()
    file = next(one for one in found.files() if one.name == LARGE)
    pieces = found.read(file, 0, file.size)
    next(pieces)
    bucket.files[f"{PREFIX}{LARGE}"] = bytes([1]) * len(large)
    with pytest.raises(BadSource, match=r"has changed at s3://"):
        next(pieces)


def test_errors_name_the_place(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"s3://weights/nothing: has no files"):
        fetched(source(f"s3://{BUCKET}/nothing"), tmp_path)
    with pytest.raises((BadSource, SourceUnavailable), match=r"s3://other"):
        fetched(source("s3://other/model"), tmp_path)


def test_what_an_etag_says() -> None:
    size = 20 << 20
    assert etag_digest('"d41d8cd98f00b204e9800998ecf8427e"', 0) == Digest(MD5, "d41d8cd98f00b204e9800998ecf8427e")
    parts = "d41d8cd98f00b204e9800998ecf8427e-3"
    assert etag_digest(f'"{parts}"', size) == Digest(MD5_OF_PARTS, parts)
    assert etag_digest(f'"{parts}99"', size) is None, "no size of parts makes 399 of so few bytes"
    assert etag_digest('"-CK"', size) is None
    assert etag_digest(None, size) is None


@pytest.mark.parametrize("part", [5 << 20, 8 << 20, 8_000_000, 16 << 20])
def test_digests_of_parts_do_not_depend_on_the_pieces(part: int) -> None:
    content = b"0123456789abcdef" * (1 << 21)
    digest = Digest(MD5_OF_PARTS, multipart_etag(content, part))
    for piece in (1 << 20, 7_654_321, len(content)):
        found = hasher(digest, len(content))
        for at in range(0, len(content), piece):
            found.update(content[at : at + piece])
        assert found.matches(), piece
    assert not hasher(digest, len(content)).matches()
    assert hasher(Digest(SHA256, hashlib.sha256(b"").hexdigest()), 0).matches()
    assert BLOCK_BYTES % (1 << 20) == 0
