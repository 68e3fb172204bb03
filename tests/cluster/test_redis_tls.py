"""A Redis over TLS, whose certificate is of an authority of its operator's own and whose user has a password."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from k8s.e2e.own_authority import issue
from services.local.redis_server import binary
from services.membership.redis import Membership, RedisUnavailable
from services.process.addresses import free_port
from services.process.redis_url import url_violation, with_authorities
from services.process.settings import InvalidSetting
from services.router.settings import RouterSettings

pytestmark = pytest.mark.processes

PROGRAM = Path(__file__).resolve().parents[2] / "k8s/e2e/tls_redis.py"
USER, PASSWORD = "caracal", "p@ss/w?rd#:%&=+[é"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Yields the URL of a Redis and the file of its certificate's authority."""
    folder = tmp_path_factory.mktemp("tls")
    for name, text in zip(("ca.crt", "tls.crt", "tls.key"), issue("127.0.0.1"), strict=True):
        (folder / name).write_text(text)
    port = free_port()
    command = [sys.executable, str(PROGRAM), binary(), str(port), str(folder), USER, PASSWORD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "serving\n"
        yield f"rediss://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0", folder / "ca.crt"
        server.terminate()


async def _ask(url: str) -> None:
    membership = Membership(url)
    try:
        for _ in range(50):
            try:
                await membership.set_desired("expert", 3)
                break
            except RedisUnavailable as error:
                if "verify failed" in str(error):
                    raise
                await asyncio.sleep(0.1)  # the server behind the port begins a moment later
        assert (await membership.desired())["expert"] == 3
    finally:
        await membership.close()


def test_an_authority_of_ones_own_and_any_password(served: tuple[str, Path], tmp_path: Path) -> None:
    url, authority = served
    assert url_violation(url) == ""
    environ = {"CARACAL_MODEL": str(tmp_path), "CARACAL_REDIS_URL": url, "CARACAL_REDIS_CA": str(authority)}
    asyncio.run(_ask(RouterSettings.from_env(environ).redis))
    with pytest.raises(RedisUnavailable, match="certificate verify failed"):
        asyncio.run(_ask(url))


def test_a_file_without_authorities_is_named(tmp_path: Path) -> None:
    for text, why in ((None, "cannot be read: No such file"), ("no PEM", "has no certificate in PEM")):
        file = tmp_path / "ca.crt"
        if text is not None:
            file.write_text(text)
        with pytest.raises(InvalidSetting, match=rf"^CARACAL_REDIS_CA is {file}: {why}"):
            RouterSettings.from_env({"CARACAL_MODEL": str(tmp_path), "CARACAL_REDIS_CA": str(file)})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rediss://h:6380/0", "rediss://h:6380/0?ssl_ca_certs=/ca%20s.crt"),
        ("rediss://h?db=2", "rediss://h?db=2&ssl_ca_certs=/ca%20s.crt"),
        ("rediss://h?ssl_ca_certs=/mine", "rediss://h?ssl_ca_certs=/mine"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("unix:///s", "unix:///s"),
    ],
)
def test_authorities_are_of_tls_alone(url: str, expected: str) -> None:
    assert with_authorities(url, "/ca s.crt") == expected
    assert with_authorities(url, "") == url
    assert url_violation(expected) == ""
