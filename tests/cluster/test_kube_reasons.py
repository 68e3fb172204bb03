"""`caracal status` and `scale` with --context blame the right thing: a workload without pods, a pod, its last run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.kube_api import FakeApi, job, job_pod, warning
from support.kube_command import run

QUOTA = 'create Pod caracal-expert-1 in StatefulSet caracal-expert failed error: pods "caracal-expert-1" is forbidden'


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _ago(**past: int) -> str:
    return (datetime.now(UTC) - timedelta(**past)).isoformat().replace("+00:00", "Z")


def _status(*words: str) -> str:
    return run("status", "--context", "lab", *words)[1]


def _running(**more: Any) -> dict[str, Any]:
    """The status of a pod that runs and is not ready."""
    container = {"name": "x", "image": "x", "imageID": "x", "ready": False, "restartCount": 1}
    state = {"state": {"running": {"startedAt": now()}}} | more
    conditions = [{"type": "Ready", "status": "False", "message": "containers with unready status: [x]"}]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": [container | state]}


@pytest.mark.parametrize(
    ("role", "kind", "name"),
    [("expert", "StatefulSet", "caracal-expert"), ("router", "ReplicaSet", "caracal-router-5d4f9c")],
)
def test_pods_that_cannot_be_created_are_reported(api: FakeApi, role: str, kind: str, name: str) -> None:
    api.events = 200, {"items": [warning(name, "FailedCreate", QUOTA, now(), kind)]}
    assert "FailedCreate" not in _status(), "it has all its pods by now"
    api.workload_states[role] = {"replicas": 0, "readyReplicas": 0}
    assert f"caracal-{role}: FailedCreate: {QUOTA}\n" in _status()
    workloads = {one["name"]: one["reason"] for one in json.loads(_status("--json"))["workloads"]}
    assert workloads[f"caracal-{role}"] == f"FailedCreate: {QUOTA}"
    assert not any(why for other, why in workloads.items() if other != f"caracal-{role}")


def test_a_deployment_that_rolls_says_it_in_a_condition(api: FakeApi) -> None:
    """Its old pods are all there, so that only the new ReplicaSet lacks one."""
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota", "reason": "FailedCreate"}
    api.workload_states["router"] = {"conditions": [failure], "readyReplicas": 0}
    assert "caracal-router: FailedCreate: exceeded quota\n" in _status()


def test_scale_says_that_pods_cannot_be_created(api: FakeApi) -> None:
    api.stuck = True
    api.workload_states["expert"] = {"replicas": 1, "readyReplicas": 1}
    api.events = 200, {"items": [warning("caracal-expert", "FailedCreate", QUOTA, now(), "StatefulSet")]}
    output = run("scale", "expert=2", "--context", "lab", "--timeout", "1")[1]
    assert f"not reached within 1 s; caracal-expert: FailedCreate: {QUOTA}\n" in output


def test_scale_blames_a_pod_of_the_role_that_is_scaled(api: FakeApi) -> None:
    api.stuck = True
    api.states["caracal-attention-0"] = _running(lastState={"terminated": {"exitCode": 1, "reason": "Error"}})
    output = run("scale", "expert=2", "--context", "lab", "--timeout", "1")[1]
    assert "not reached within 1 s; caracal-expert-1: no node has 8 GPUs\n" in output


def test_scale_down_blames_the_pod_that_does_not_go(api: FakeApi) -> None:
    api.start(attention=1, expert=3)
    api.stuck = True
    needs = warning("caracal-expert-2", "ExpertsNeedMorePods", "24 experts fit nowhere", now())
    probes = warning("caracal-expert-2", "Unhealthy", "Readiness probe failed", now())
    api.events = 200, {"items": [probes, needs]}
    output = run("scale", "expert=2", "--context", "lab", "--timeout", "1")[1]
    assert "not reached within 1 s; caracal-expert-2: ExpertsNeedMorePods: 24 experts fit nowhere\n" in output
    api.events = 200, {"items": [probes]}
    output = run("scale", "expert=2", "--context", "lab", "--timeout", "1")[1]
    assert "caracal-expert-2: is being deleted\n" in output


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ('{"ts": "2026-11-30T10:00:00Z", "level": "info", "event": "serving"}', "OOMKilled, exit code 137"),
        ('{"ts": "2026-11-30T10:00:00Z", "level": "warning", "event": "slow"}', "OOMKilled, exit code 137"),
        (
            '{"ts": "2026-11-30T10:00:00Z", "level": "error", "event": "the kernel broke"}',
            "the kernel broke (OOMKilled, exit code 137)",
        ),
        ("MemoryError: 8 GiB", "MemoryError: 8 GiB (OOMKilled, exit code 137)"),
    ],
)
def test_what_a_killed_process_said_last_is_no_reason_unless_it_is_an_error(
    api: FakeApi, last: str, expected: str
) -> None:
    api.ended = "containerStatuses", {"exitCode": 137, "reason": "OOMKilled", "message": f"starting\n{last}"}
    assert f"caracal-expert-0: {expected}\n" in _status()


def test_the_end_of_an_earlier_run_is_a_reason_only_without_a_newer_one_and_with_its_age(api: FakeApi) -> None:
    ended = {"exitCode": 3, "reason": "Error", "message": "ValueError: x", "finishedAt": _ago(minutes=90)}
    api.states["caracal-expert-0"] = _running(lastState={"terminated": ended})
    assert "caracal-expert-0: starts again: ValueError: x (Error, exit code 3) (90 min ago)\n" in _status()
    api.events = 200, {"items": [warning("caracal-expert-0", "Unhealthy", "Readiness probe failed", now())]}
    assert "caracal-expert-0: Unhealthy: Readiness probe failed\n" in _status()


def test_a_warning_about_an_earlier_pod_of_the_name_is_not_shown(api: FakeApi) -> None:
    api.states["caracal-expert-0"] = _running()
    api.identities["caracal-expert-0"] = {"uid": "second", "creationTimestamp": _ago(minutes=5)}
    for event in (
        warning("caracal-expert-0", "FailedMount", "of the first", now(), uid="first"),
        warning("caracal-expert-0", "FailedMount", "of the first", _ago(minutes=6)),
    ):
        api.events = 200, {"items": [event]}
        assert "of the first" not in _status()
    api.events = 200, {"items": [warning("caracal-expert-0", "FailedMount", "of this one", now(), uid="second")]}
    assert "of this one" in _status()


def test_a_job_that_fails_is_reported_with_the_last_line_of_its_pod(api: FakeApi) -> None:
    """Pods wait in ContainerCreating for what it makes, and their own Events name only a missing key."""
    certificates = job("certificates", "1a", now(), failed=2, active=1)
    line = "Secret caracal-mtls-ca: 403 Forbidden"
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": line}}
    api.jobs = [certificates, job("replicas", "2b", now(), succeeded=1)]
    api.job_pods = [job_pod(certificates, {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, ended)]
    assert f"caracal-certificates-1a: {line} (Error, exit code 1)\n" in _status()
    (found,) = json.loads(_status("--json"))["jobs"]
    assert found["name"] == "caracal-certificates-1a"


def test_a_job_that_has_given_up_is_reported_and_an_older_one_is_not(api: FakeApi) -> None:
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "reached the limit"}
    api.jobs = [
        job("weights", "new", now(), failed=31, conditions=[failed]),
        job("certificates", "old", _ago(days=1), failed=11, conditions=[failed]),
        job("certificates", "new", now(), succeeded=1),
    ]
    output = _status()
    assert "caracal-weights-new: BackoffLimitExceeded: reached the limit\n" in output
    assert "caracal-certificates" not in output


def test_a_job_whose_pod_cannot_be_created_has_an_event(api: FakeApi) -> None:
    api.jobs = [job("replicas", "2b", now())]
    api.events = 200, {"items": [warning("caracal-replicas-2b", "FailedCreate", "exceeded quota", now(), "Job")]}
    assert "caracal-replicas-2b: FailedCreate: exceeded quota\n" in _status()


def test_a_job_that_runs_is_no_failure(api: FakeApi) -> None:
    """Terabytes take hours."""
    weights = job("weights", "3c", now(), active=1)
    pod = job_pod(weights, {"running": {"startedAt": now()}})
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    api.jobs, api.job_pods = [weights], [pod]
    assert "caracal-weights" not in _status()


def test_status_says_what_holds_the_pods_of_another_class(api: FakeApi) -> None:
    """The kubelet says only that their readiness probe fails."""
    why = "attention-0 of numerics class old still need their last experts"
    status, overview = api.proxied
    api.proxied = status, overview | {"holds": {"new": why}}
    assert f"expert workers of numerics class new do not count as ready yet: {why}\n" in _status()
    assert json.loads(_status("--json"))["cluster"]["holds"] == {"new": why}
