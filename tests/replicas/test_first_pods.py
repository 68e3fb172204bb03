"""The Job that starts the first pods of a release, against a small HTTP server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from kubernetes import client
from support.scale_api import ScaleApi

from services.process.settings import InvalidSetting
from services.replicas.settings import ReplicaSettings, Workload
from services.replicas.workloads import Workloads, WorkloadUnavailable

SET, DEPLOYMENT = "statefulsets/caracal-expert", "deployments/caracal-router"
EXPERTS = Workload("statefulsets", "caracal-expert", 4)
ROUTERS = Workload("deployments", "caracal-router", 2)


@pytest.fixture
def api() -> Iterator[ScaleApi]:
    with ScaleApi(SET, DEPLOYMENT) as api:
        yield api


@pytest.fixture
def workloads(api: ScaleApi) -> Workloads:
    return Workloads(client.ApiClient(client.Configuration(host=api.url)), "models", "notes")


def test_each_gets_its_number_and_is_left_to_whoever_scales(api: ScaleApi, workloads: Workloads) -> None:
    workloads.begin(EXPERTS)
    workloads.begin(ROUTERS)
    assert api.replicas == {SET: 4, DEPLOYMENT: 2}
    assert api.notes == {"caracal-expert": "4", "caracal-router": "2"}
    assert api.managers == {SET: ["someone"], DEPLOYMENT: ["someone"]}, "no conflict for values that own it later"


def test_run_again_it_leaves_what_was_scaled_since(api: ScaleApi, workloads: Workloads) -> None:
    workloads.begin(EXPERTS)
    for count in (7, 1):
        api.scale(SET, count)
        workloads.begin(EXPERTS)
        assert api.replicas[SET] == count


def test_one_that_was_scaled_first_keeps_its_number(api: ScaleApi, workloads: Workloads) -> None:
    api.scale(SET, 3)
    workloads.begin(EXPERTS)
    assert (api.replicas[SET], api.notes) == (3, {"caracal-expert": "4"})


def test_a_change_meanwhile_is_seen(api: ScaleApi, workloads: Workloads) -> None:
    once = iter([lambda: api.scale(SET, 9)])
    api.before_patch = lambda: next(once, lambda: None)()
    workloads.begin(EXPERTS)
    assert api.replicas[SET] == 9, "scaled between the read and the write"
    api.before_patch = lambda: api.scale(DEPLOYMENT, 1)
    with pytest.raises(WorkloadUnavailable, match=r"deployments/caracal-router is changed all the time"):
        workloads.begin(ROUTERS)


def test_one_that_is_not_there_is_named(workloads: Workloads) -> None:
    with pytest.raises(WorkloadUnavailable, match=r"statefulsets/other: 404"):
        workloads.begin(Workload("statefulsets", "other", 2))


@pytest.mark.parametrize("wrong", ["daemonsets/a=2", "statefulsets/a", "statefulsets/a=0", "statefulsets/a=10001"])
def test_what_is_no_workload_is_rejected(wrong: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"CARACAL_INITIAL_REPLICAS is .*'{wrong}' is not of the form"):
        ReplicaSettings(initial_replicas=f"deployments/b=1 {wrong}", config_map="notes")


@pytest.mark.processes
def test_outside_a_cluster_one_line_says_so() -> None:
    given = {**os.environ, "CARACAL_INITIAL_REPLICAS": "deployments/a=2", "CARACAL_CONFIG_MAP": "notes"}
    command = [sys.executable, "-m", "services.replicas"]
    done = subprocess.run(command, capture_output=True, text=True, env=given, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("caracal: the service account cannot be used:")
    assert done.stderr.count("\n") == 1
