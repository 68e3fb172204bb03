"""The split of the machine's cores over roles."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.attention_worker.settings import AttentionSettings
from services.expert_worker.settings import ExpertSettings
from services.local.cores import cores_of
from services.local.settings import LocalSettings
from services.process.cores import format_cores, own_cores, parse_cores, run_on
from services.process.settings import InvalidSetting

BUILT_IN = Path(__file__).resolve().parents[2] / "models" / "caracal-tiny"


def test_two_cores_two_workers() -> None:
    assert cores_of("attention", 1, 1, [0, 1]) == {0}
    assert cores_of("expert", 1, 1, [0, 1]) == {1}
    assert cores_of("router", 1, 1, [0, 1]) == {0, 1}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 64))
def test_shares_are_disjoint_cover_all_cores_and_are_never_empty(attention: int, expert: int, count: int) -> None:
    cores = list(range(3, 3 + count))
    attention_cores, expert_cores = (cores_of(role, attention, expert, cores) for role in ("attention", "expert"))
    assert attention_cores
    assert expert_cores
    if count < attention + expert:
        assert attention_cores == expert_cores == set(cores)
    else:
        assert attention_cores | expert_cores == set(cores)
        assert not attention_cores & expert_cores


@given(st.frozensets(st.integers(0, 300), max_size=20))
def test_lists_of_cores_are_read_as_they_are_written(cores: frozenset[int]) -> None:
    assert parse_cores(format_cores(cores)) == cores


def test_ranges() -> None:
    assert parse_cores("0-2, 6") == {0, 1, 2, 6}
    assert parse_cores("") == frozenset()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a", "must be a list"),
        ("1-", "must be a list"),
        ("-1", "must be a list"),
        ("3-1", "3-1 has no core"),
        ("9999", "may not use 9999"),
        ("0-99999999999999", "no machine has core 99999999999999"),
    ],
)
@pytest.mark.parametrize("settings", [AttentionSettings, ExpertSettings])
def test_a_bad_list_is_named(settings: type[AttentionSettings] | type[ExpertSettings], text: str, why: str) -> None:
    with pytest.raises(InvalidSetting, match=f"CARACAL_CORES is '{text}': .*{why}"):
        settings.from_env({"CARACAL_MODEL": "model", "CARACAL_CORES": text})


def test_kernels_take_as_many_threads_as_their_cores() -> None:
    one = str(min(own_cores()))
    environment = {"CARACAL_MODEL": "model", "CARACAL_CORES": one}
    assert AttentionSettings.from_env(environment).kernel_threads == 1
    assert AttentionSettings.from_env(environment | {"CARACAL_THREADS": "3"}).kernel_threads == 3
    assert AttentionSettings.from_env({"CARACAL_MODEL": "model"}).kernel_threads == 0


def test_a_thread_and_those_it_starts_stay_on_their_cores() -> None:
    core, seen = min(own_cores()), []
    before = own_cores()

    def look() -> None:
        seen.append(own_cores())

    def work() -> None:
        run_on(frozenset({core}))
        look()
        child = threading.Thread(target=look)
        child.start()
        child.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{core}, {core}]
    assert own_cores() == before == os.sched_getaffinity(0)


def test_a_worker_that_is_added_later_does_not_inherit_the_cores_of_the_command() -> None:
    settings = LocalSettings(model=BUILT_IN, attention=1, expert=1)
    assert settings.cores_environment("expert", 0)["CARACAL_CORES"]
    assert settings.cores_environment("expert", 1) == {"CARACAL_CORES": ""}, "any, whatever the environment says"
