"""Files of API keys, and quotas."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.access.keys import ApiKey, ApiKeys, KeysError, key_hash, new_key, section_of
from services.router.access.quotas import Bucket, Quota

HASH, OTHER = key_hash("one"), key_hash("two")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "keys.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_key_is_found_by_what_a_client_presents(tmp_path: Path) -> None:
    key = new_key()
    text = f'[alice]\nsha256 = "{key_hash(key)}"\nweight = 2\nconcurrent = 3\n'
    text += f'["bob@x"]\nsha256 = "{OTHER}"\nadmin = true\n'
    keys = ApiKeys.read(written(tmp_path, text))
    assert keys.find(key) == ApiKey(name="alice", sha256=key_hash(key), weight=2, concurrent=3)
    assert keys.find(key + "x") is None
    assert keys.find("") is None
    assert keys.find("\udcff" * 10) is None
    assert [one.name for one in keys.keys if one.admin] == ["bob@x"]
    assert key not in text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no keys"),
        (b"\xff", "not UTF-8"),
        ("[a", "not TOML"),
        ("x = 1", "x: is not a section"),
        ("[a]", "a: sha256 is missing"),
        ('[a]\nsha256 = "abc"', "a.sha256: is not a SHA-256"),
        (f'[a]\nsha256 = "{HASH}"\nrpm = 5', "a.rpm: there is no such field"),
        (f'[a]\nsha256 = "{HASH}"\nrequests_per_minute = "5"', "a.requests_per_minute: is not a number"),
        (f'[a]\nsha256 = "{HASH}"\ntokens_per_minute = nan', "a.tokens_per_minute: is not a number"),
        (f'[a]\nsha256 = "{HASH}"\ntokens_per_minute = -1', "a.tokens_per_minute: is not a number"),
        (f'[a]\nsha256 = "{HASH}"\nconcurrent = 1.5', "a.concurrent: is not a whole number"),
        (f'[a]\nsha256 = "{HASH}"\nconcurrent = true', "a.concurrent: is not a whole number"),
        (f'[a]\nsha256 = "{HASH}"\nweight = 0', "a.weight: is not a number"),
        (f'[a]\nsha256 = "{HASH}"\nadmin = 1', "a.admin: is not true or false"),
        (f'["a b"]\nsha256 = "{HASH}"', "'a b' is no name"),
        (f'[a]\nsha256 = "{HASH}"\n[b]\nsha256 = "{HASH}"', "a and b have the same key"),
        ("[a]\nweight = " + "9" * 5000, "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
    ],
)
def test_a_bad_file_names_the_culprit(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(KeysError) as error:
        ApiKeys.read(written(tmp_path, text))
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['[{}]\nsha256 = "x"', "[a]\n{} = 1", '["x.{}"]\nsha256 = "x"'])
def test_a_key_that_is_where_a_name_belongs_is_not_shown(tmp_path: Path, text: str) -> None:
    secret = new_key()
    with pytest.raises(KeysError) as error:
        ApiKeys.read(written(tmp_path, text.format(secret)))
    assert secret[10:] not in str(error.value)
    with pytest.raises(KeysError, match="a section has a key as its name"):
        section_of(secret, HASH, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"keys\.toml: No such file"):
        ApiKeys.read(tmp_path / "keys.toml")


def test_a_bucket_fills_by_the_minute() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.lacks_s(60, 0.0) == 0
    bucket.take(60, 0.0)
    assert bucket.lacks_s(30, 0.0) == 30
    assert bucket.lacks_s(30, 10.0) == pytest.approx(20)
    assert bucket.lacks_s(61, 0.0) == math.inf
    assert bucket.lacks_s(60, 1000.0) == 0, "a minute's worth at most"
    assert bucket.left(1000.0) == 60
    bucket.take(10, 1000.0)
    assert bucket.full_in_s(1000.0) == pytest.approx(10)


@given(
    per_minute=st.floats(1, 1e6),
    asked=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e6)), max_size=60),
)
def test_no_more_is_granted_than_time_allows(per_minute: float, asked: list[tuple[float, float]]) -> None:
    bucket, now, granted = Bucket(per_minute, 0.0), 0.0, 0.0
    for wait_s, amount in asked:
        now += wait_s
        if not bucket.lacks_s(amount, now):
            bucket.take(amount, now)
            granted += amount
    assert granted <= per_minute * (1 + now / 60) * (1 + 1e-9)


def key(**limits: float) -> ApiKey:
    return ApiKey(name="a", sha256=HASH, **limits)  # type: ignore[arg-type]  # numbers all


def test_a_quota_counts_requests_tokens_and_what_is_open() -> None:
    quota = Quota(key(requests_per_minute=2, tokens_per_minute=100, concurrent=2), 1, 0.0)
    assert quota.begin(0.0) is None
    assert quota.begin(0.0) is None
    excess = quota.begin(0.0)
    assert excess is not None
    assert (excess.limit, excess.most) == ("concurrent", 2)
    quota.end(0, 0, 0.0)
    excess = quota.begin(0.0)
    assert excess is not None
    assert (excess.limit, excess.retry_s) == ("requests_per_minute", 30)
    assert quota.begin(30.0) is None
    assert quota.reserve(80, 30.0) is None
    excess = quota.reserve(40, 30.0)
    assert excess is not None
    assert excess.limit == "tokens_per_minute"
    assert excess.retry_s == pytest.approx(12)
    excess = quota.reserve(101, 30.0)
    assert excess is not None
    assert excess.retry_s is None, "it would never fit"
    quota.end(80, 10, 30.0)
    assert quota.reserve(90, 30.0) is None


def test_routers_share_a_quota_and_new_limits_count_at_once() -> None:
    quota = Quota(key(requests_per_minute=60, concurrent=3), 2, 0.0)
    for _ in range(2):
        assert quota.begin(0.0) is None
    assert quota.begin(0.0) is not None, "half of three, rounded up"
    quota.update(key(requests_per_minute=60), 1, 0.0)
    for _ in range(58):
        assert quota.begin(0.0) is None
    assert quota.begin(0.0) is not None
    few = Quota(key(requests_per_minute=1), 4, 0.0)
    assert few.begin(0.0) is None
    assert few.begin(60.0) is not None
    assert few.begin(240.0) is None


def test_how_many_routers_there_are_decides_on_no_request() -> None:
    quota = Quota(key(tokens_per_minute=100), 4, 0.0)
    assert quota.reserve(80, 0.0) is None, "more than the share of 25, and not more than the key has"
    excess = quota.reserve(80, 0.0)
    assert excess is not None
    assert excess.retry_s == pytest.approx(80 / 25 * 60)
    assert quota.reserve(80, 191.0) is not None
    assert quota.reserve(80, 193.0) is None, "as many in the long run as without routers that share"
    excess = quota.reserve(101, 1e6)
    assert excess is not None
    assert excess.retry_s is None
