"""Whom the release's Redis lets in, run with the flags of its pod: the password, a second one meanwhile, or anybody."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.chart_objects import Chart, Object, environment, find

from services.local.redis_server import binary
from services.membership.redis import Membership, RedisUnavailable
from services.process.addresses import free_port
from services.process.redis_url import with_password
from services.process.settings import InvalidSetting
from services.router.settings import RouterSettings

pytestmark = pytest.mark.processes

FIRST, SECOND = "--p@ss w/?rd#:%&=+['\"\\é", "2"
SECRET = "redis.existingSecret=mine"


def _container(objects: list[Object], kind: str, role: str) -> Object:
    found: Object = find(objects, kind, f"caracal-{role}")["spec"]["template"]["spec"]["containers"][0]
    return found


@contextmanager
def _redis(objects: list[Object], folder: Path, **passwords: str) -> Iterator[str]:
    """Runs a server with the flags of the rendered pod, and these variables; yields its URL without a password."""
    container = _container(objects, "Deployment", "redis")
    secret = {name: entry for name, entry in environment(container).items() if "valueFrom" in entry}
    assert secret.keys() == passwords.keys()
    port = free_port()
    given = {"6379": str(port), "/tmp": str(folder)}
    arguments = [given.get(word, word) for word in container["args"]]
    for name, password in passwords.items():
        arguments = [word.replace(f"$({name})", password) for word in arguments]
    with subprocess.Popen([binary(), *arguments, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL) as server:
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


async def _may_enter(url: str, password: str) -> bool:
    membership = Membership(with_password(url, password))
    try:
        for _ in range(100):
            try:
                return (await membership.desired()) == {}
            except RedisUnavailable as error:
                if "Authentication" in str(error) or "invalid username-password" in str(error):
                    return False
                if "onnection" not in str(error):
                    raise
                await asyncio.sleep(0.05)
        raise AssertionError("the server does not answer")
    finally:
        await membership.close()


def _enters(url: str, *passwords: str) -> list[bool]:
    return [asyncio.run(_may_enter(url, password)) for password in passwords]


def test_a_password_may_have_any_character(chart: Chart, tmp_path: Path) -> None:
    with _redis(chart.render(SECRET), tmp_path, REDIS_PASSWORD=FIRST) as url:
        assert _enters(url, FIRST, SECOND, "") == [True, False, False]


def test_while_it_is_replaced_both_are_taken(chart: Chart, tmp_path: Path) -> None:
    objects = chart.render(SECRET, "redis.previousSecretKey=old")
    with _redis(objects, tmp_path, REDIS_PASSWORD=FIRST, REDIS_PREVIOUS_PASSWORD=SECOND) as url:
        assert _enters(url, FIRST, SECOND, "") == [True, True, False]


def test_while_pods_get_their_first_one_whoever_has_none_is_let_in(chart: Chart, tmp_path: Path) -> None:
    with _redis(chart.render(SECRET, "redis.requirePassword=false"), tmp_path, REDIS_PASSWORD=FIRST) as url:
        assert _enters(url, FIRST, "") == [True, True]
    with _redis(chart.render(), tmp_path) as url:  # the Redis before that upgrade, and pods after it
        assert _enters(url, FIRST, "") == [True, True]


def test_to_require_it_later_restarts_only_redis(chart: Chart) -> None:
    before, after = (chart.render(SECRET, f"redis.requirePassword={value}") for value in ("false", "true"))
    for kind, role in (("Deployment", "router"), ("StatefulSet", "attention"), ("StatefulSet", "expert")):
        assert _container(before, kind, role) == _container(after, kind, role)
    assert _container(before, "Deployment", "redis") != _container(after, "Deployment", "redis")


def test_every_role_has_the_password_beside_the_url(chart: Chart) -> None:
    objects = chart.render(SECRET, "redis.secretKey=word")
    for kind, role in (("Deployment", "router"), ("StatefulSet", "attention"), ("StatefulSet", "expert")):
        env = environment(_container(objects, kind, role))
        assert env["CARACAL_REDIS_URL"]["value"] == "redis://caracal-redis:6379/0"
        secret = env["CARACAL_REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": "mine", "key": "word"}


def test_two_passwords_are_rejected_and_not_shown(tmp_path: Path) -> None:
    for url in ("redis://:hush@h", "redis://h?password=hush", "redis://user@h"):
        with pytest.raises(InvalidSetting, match=r"^CARACAL_REDIS_PASSWORD: CARACAL_REDIS_URL has a user") as caught:
            RouterSettings.from_env(
                {"CARACAL_MODEL": str(tmp_path), "CARACAL_REDIS_URL": url, "CARACAL_REDIS_PASSWORD": "silent"}
            )
        assert "silent" not in str(caught.value)
