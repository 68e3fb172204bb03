"""URLs of a Redis that cannot be used are rejected by the name of their variable, before anything connects."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.user_commands import command, one_line

from services.membership.redis import Membership
from services.process.redis_url import url_violation, without_password
from services.process.settings import InvalidSetting
from services.router.settings import RouterSettings

GOOD = [
    "redis://127.0.0.1:6379/0",
    "redis://localhost",
    "redis://[::1]:6379/3",
    "REDIS://host/",
    "redis://:secret@host:6379/0",
    "redis://user:p%23ss%2F@host",
    "rediss://host:6380/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
    "redis://host/0?client_name=a&protocol=3",
    "redis+sentinel://host/mymaster",
    "redis+sentinel://user:p%23ss@a:26379,[::1]:26380,c/my.master/3?sentinel_password=x&client_name=y",
    "rediss+sentinel://a,b/mymaster/0?ssl_ca_certs=/ca.pem",
    "unix:///tmp/redis.sock",
    "unix:///tmp/redis.sock?db=2",
    "unix://user:secret@/tmp/redis.sock",
]
BAD = {
    "localhost:6379": "must begin with redis://, rediss:// or unix://",
    "127.0.0.1": "must begin with",
    "http://host": "http:// is not supported",
    "redis+sentinel://host:26379": "'' is not the name of a master",
    "redis+sentinel:///mymaster": "not a URL like redis+sentinel://",
    "redis+sentinel://a,b:port/mymaster": "not a URL like redis+sentinel://",
    "redis+sentinel://host/mymaster/one": "'one' is not the number of a database",
    "redis+sentinel://host/mymaster?ssl_cert_reqs=none": "parameter 'ssl_cert_reqs'",
    "redis+sentinel://host/mymaster?db=1": "parameter 'db'",
    "sentinel://host": "sentinel:// is not supported",
    "redis+cluster://host": "Redis Cluster is not supported",
    "redis://a:1,b:2/0": "several hosts",
    "redis://": "not a URL like",
    "redis://host:port": "not a URL like",
    "redis://host:99999": "not a URL like",
    "redis://:p#ss@host": "not a URL like",
    "redis://[::1": "not a URL like",
    "redis://host/one": "'one' is not the number of a database",
    "redis://host/0/1": "'0/1' is not the number of a database",
    "redis://host?db=x": "'x' is not the number of a database",
    "redis://host?cluster=true": "parameter 'cluster'",
    "redis://host?ssl_cert_reqs=none": "parameter 'ssl_cert_reqs'",
}


@pytest.mark.parametrize("url", GOOD)
def test_urls_that_can_be_used_are_taken_by_the_client_too(url: str) -> None:
    assert url_violation(url) == ""
    Membership(url)


@pytest.mark.parametrize("url", BAD)
def test_urls_that_cannot_be_used_end_a_role_with_one_line(url: str, tmp_path: Path) -> None:
    assert BAD[url] in url_violation(url)
    with pytest.raises(InvalidSetting, match=r"^CARACAL_REDIS_URL is "):
        RouterSettings.from_env({"CARACAL_MODEL": str(tmp_path), "CARACAL_REDIS_URL": url})


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    for url in (
        "redis+cluster://:hush@host/0",
        "redis://user:hu#sh@host",
        "redis://h/x?password=hush&a=b",
        "u:hush@h",
    ):
        shown = without_password(url)
        with pytest.raises(InvalidSetting) as caught:
            RouterSettings.from_env({"CARACAL_MODEL": str(tmp_path), "CARACAL_REDIS_URL": url})
        assert shown in str(caught.value)
        assert "hush" not in str(caught.value)
        assert "hu#sh" not in str(caught.value)


@pytest.mark.processes
@pytest.mark.parametrize("url", ["localhost:6379", "redis+cluster://host:6379"])
def test_commands_name_it_in_one_line(user: dict[str, str], url: str) -> None:
    user["CARACAL_REDIS_URL"] = url
    assert f"CARACAL_REDIS_URL is '{url}': " in one_line(command(user, "status"))
    assert f"CARACAL_REDIS_URL is '{url}': " in one_line(command(user, "scale", "expert=2"))
