"""Stores and proxies with certificates of an authority of one's own: whoever knows it is served, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fetched_files import LARGE, bucket_environment, fetched, model_files, read, wanted
from support.user_commands import command, new_user, one_line
from support.weight_stores import BUCKET, REPOSITORY, Bucket, Hub, Proxy

from k8s.e2e.own_authority import issue
from services.weights.address import parse_address
from services.weights.authorities import VARIABLE
from services.weights.errors import BadSource
from services.weights.stores import open_source

pytestmark = pytest.mark.processes

ADDRESS, PLACE = f"hf://{REPOSITORY}@v1", f"s3://{BUCKET}"


@dataclass
class Stores:
    """A hub, a bucket and two proxies; all but one proxy speak TLS, with a certificate of `authority`."""

    hub: Hub
    bucket: Bucket
    proxies: dict[str, Proxy]
    authority: Path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    folder = tmp_path_factory.mktemp("authority")
    authority, *own = (folder / name for name in ("ca.crt", "tls.crt", "tls.key"))
    for file, text in zip((authority, *own), issue("127.0.0.1"), strict=True):
        file.write_text(text)
    hub, bucket = Hub(model_files()).secured(*own), Bucket(model_files()).secured(*own)
    with hub, bucket, Proxy() as plain, Proxy().secured(*own) as over_tls:
        yield Stores(hub, bucket, {"http": plain, "https": over_tls}, authority)


@pytest.fixture
def user(tmp_path: Path, stores: Stores) -> dict[str, str]:
    return new_user(tmp_path) | bucket_environment(stores.bucket) | {"HF_ENDPOINT": stores.hub.url}


@pytest.mark.parametrize("address", [ADDRESS, PLACE])
def test_only_with_its_authority_a_store_is_read(
    stores: Stores, user: dict[str, str], tmp_path: Path, address: str
) -> None:
    folder = tmp_path / "model"
    refused = one_line(command(user, "fetch", address, str(folder)))
    assert f"{VARIABLE} names a file with further ones" in refused, "at once, not after tries"
    done = command(user | {VARIABLE: str(stores.authority)}, "fetch", address, str(folder))
    assert done.returncode == 0, done.stderr
    assert read(folder) == wanted(model_files())


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("address", [ADDRESS, PLACE])
def test_proxies_pass_it_on(stores: Stores, user: dict[str, str], tmp_path: Path, address: str, scheme: str) -> None:
    proxy, port = stores.proxies[scheme], (stores.hub if address == ADDRESS else stores.bucket).server_address[1]
    user |= {VARIABLE: str(stores.authority), "HTTPS_PROXY": proxy.url}
    done = command(user, "fetch", address, str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert LARGE in read(tmp_path / "model")
    assert f"127.0.0.1:{port}" in proxy.asked


def test_the_machines_own_authorities_still_count(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SSL_CERT_FILE is what names them here; the further file has one that nobody shows."""
    (tmp_path / "other.crt").write_text(issue("127.0.0.1")[0])
    for name, value in bucket_environment(stores.bucket).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other.crt"))
    with pytest.raises(BadSource, match="its certificate is"):
        fetched(open_source(parse_address(PLACE)), tmp_path / "model")
    monkeypatch.setenv("SSL_CERT_FILE", str(stores.authority))
    fetched(open_source(parse_address(PLACE)), tmp_path / "model")


@pytest.mark.parametrize(("text", "why"), [(None, "cannot be read"), ("no PEM", "has no certificate in PEM")])
@pytest.mark.parametrize("address", [ADDRESS, PLACE])
def test_a_file_without_authorities_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, text: str | None, why: str
) -> None:
    file = tmp_path / "ca.crt"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(BadSource, match=rf"^{VARIABLE} is {file}: {why}"):
        open_source(parse_address(address))
