"""Models on a web server, which lists nothing: which files are asked for, whose digests; changes and faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fetched_files import LARGE, SMALL, fetched, model_files, read, wanted
from support.weight_stores import Web

from services.weights.address import parse_address
from services.weights.errors import BadSource, Damaged, SourceUnavailable
from services.weights.manifest import FILE, make_manifest
from services.weights.source import Source
from services.weights.stores import open_source
from services.weights.web import INDEX

FILES = model_files() | {INDEX: json.dumps({"weight_map": {"a": LARGE, "b": SMALL}}).encode()}
UNLISTED = "additional_chat_templates/tools.jinja"  # which a manifest alone names


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(FILES) as server:
        yield server


@pytest.fixture
def with_manifest(web: Web, tmp_path: Path) -> Web:
    for name, content in wanted(FILES).items():
        path = tmp_path / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    web.files[FILE] = make_manifest(tmp_path / "original", "a" * 64, lambda *_: None).to_json().encode()
    return web


def source(web: Web) -> Source:
    return open_source(parse_address(web.address))


def test_its_manifest_names_the_files_and_their_digests(with_manifest: Web, tmp_path: Path) -> None:
    with_manifest.faults.damaged[LARGE] = 1
    fetched(source(with_manifest), tmp_path / "model")
    assert read(tmp_path / "model") == wanted(FILES)
    assert with_manifest.begins(LARGE) == [0, 0], "again, when the digest was wrong"
    with_manifest.faults.damaged[SMALL] = 2
    with pytest.raises(Damaged, match=rf"^{SMALL}: "):
        fetched(source(with_manifest), tmp_path / "another")


def test_without_one_the_index_and_the_usual_names_do(web: Web, tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"has no digest of it to compare"):
        fetched(source(web), tmp_path / "a")
    assert LARGE not in [name for name, _, _ in web.ranges]
    fetched(source(web), tmp_path / "a", unverified=True)
    expected = {name: content for name, content in wanted(FILES).items() if name != UNLISTED}
    assert read(tmp_path / "a") == expected
    web.says_digests = True
    fetched(source(web), tmp_path / "b")
    assert read(tmp_path / "b") == expected


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": FILES[SMALL]}
    with Web(files) as web:
        fetched(source(web), tmp_path, unverified=True)
        assert read(tmp_path) == files
        del web.files["model.safetensors"]
        with pytest.raises(BadSource, match=r"/models/flash: has no model\.safetensors$"):
            fetched(source(web), tmp_path, verify=True)


def test_what_breaks_off_goes_on_and_who_is_overloaded_is_asked_again(with_manifest: Web, tmp_path: Path) -> None:
    with_manifest.faults.cut_after[LARGE] = 600_000
    with_manifest.faults.refused = 2
    fetched(source(with_manifest), tmp_path / "model")
    assert with_manifest.begins(LARGE) == [0, 600_000, 1_200_000]
    with_manifest.faults.refused = 1000
    with pytest.raises(SourceUnavailable, match="answers 503"):
        fetched(source(with_manifest), tmp_path / "another")


def test_a_file_that_is_replaced_meanwhile_is_not_mixed(web: Web) -> None:
    found = source(web)
    (file,) = [one for one in found.files() if one.name == LARGE]
    web.files[LARGE] = bytes(len(FILES[LARGE]))
    with pytest.raises(BadSource, match=rf"^{LARGE}: has changed at {web.address}"):
        b"".join(found.read(file, 0, 100))


def test_a_server_without_ranges_is_named(web: Web) -> None:
    found = source(web)
    (file,) = [one for one in found.files() if one.name == LARGE]
    web.has_ranges = False
    assert b"".join(found.read(file, 0, file.size)) == FILES[LARGE], "all of it needs none"
    with pytest.raises(BadSource, match="the server has no ranges"):
        b"".join(found.read(file, 5, 100))


@pytest.mark.parametrize("shard", ["../../etc/passwd.safetensors", "weights.bin", 7])
def test_an_index_that_names_something_else_is_refused(web: Web, shard: object) -> None:
    web.files[INDEX] = json.dumps({"weight_map": {"a": shard}}).encode()
    with pytest.raises(BadSource, match=r"is no name of a file|is no index of weights"):
        source(web).files()
