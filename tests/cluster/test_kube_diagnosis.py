"""What `caracal status --context` prints about a release that does not serve, and its exit codes."""

from __future__ import annotations

from typing import Any

import pytest
from support.kube_api import OVERVIEW, WORKERS, FakeApi, warning
from support.kube_command import error_line, run

NOT_READY = (
    503,
    {"error": {"message": "x"}, "reason": "no attention worker has a placement table yet", "warning": "few"},
)


def _status(expected_code: int) -> str:
    code, output = run("status", "--context", "lab")
    assert code == expected_code, output
    return output


@pytest.mark.parametrize("port", [8443, None])
def test_the_routers_port_is_the_one_named_http(api: FakeApi, port: int | None) -> None:
    api.port = port
    assert "epoch 7" in _status(0)


def test_a_release_without_images_does_not_serve_and_the_reason_is_printed_once(api: FakeApi) -> None:
    api.start(attention=2, expert=4)
    pulled = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "caracal:0"'}}
    status = {"phase": "Pending", "conditions": [], "containerStatuses": [_container(pulled)]}
    names = ["attention-0", "attention-1", "expert-0", "expert-1", "expert-2", "expert-3", "router-0"]
    api.states = {f"caracal-{name}": status for name in names}
    output = _status(3)
    four = ", ".join(f"caracal-{name}" for name in names[:4])
    assert f'{four} and 3 more: ImagePullBackOff: Back-off pulling image "caracal:0"' in output
    assert output.count("ImagePullBackOff") == 1
    assert "no router is ready: requests are not served" in output


def test_the_reason_of_a_router_that_is_not_ready_is_shown(api: FakeApi) -> None:
    api.ready = NOT_READY
    output = _status(3)
    assert "caracal-router-0 is not ready: no attention worker has a placement table yet. few" in output
    assert "epoch 7" in output, "its overview is shown all the same"
    api.states = {"caracal-router-0": {"phase": "Pending"}}
    assert "caracal-router-0 is not ready" not in _status(3), "a pod that does not run is not asked"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"workers": []}, "no router runs"),
        ({"workers": WORKERS[:1]}, "no attention worker serves"),
        ({"workers": WORKERS[:2]}, "no expert worker has loaded experts"),
        ({"lost": 3}, "3 experts are loaded on no worker"),
    ],
)
def test_a_ready_router_may_report_that_nothing_is_served(api: FakeApi, change: dict[str, Any], expected: str) -> None:
    api.proxied = 200, OVERVIEW | change
    assert f"requests are not served: {expected}" in _status(3)


def test_the_newest_warning_of_a_waiting_pod_is_shown(api: FakeApi) -> None:
    waits = {"waiting": {"reason": "ContainerCreating"}}
    api.states["caracal-expert-0"] = {"phase": "Pending", "conditions": [], "containerStatuses": [_container(waits)]}
    unready = [{"type": "Ready", "status": "False", "message": "containers with unready status: [x]"}]
    api.states["caracal-attention-0"] = {"conditions": unready, "containerStatuses": [_container({})]}
    output = _status(0)
    assert "caracal-expert-0: container x: ContainerCreating" in output
    assert "caracal-attention-0: Ready is False: containers with unready status: [x]" in output
    events = [
        warning("caracal-expert-0", "FailedMount", "old words", "2026-01-01T00:00:00Z"),
        warning("caracal-expert-0", "FailedMount", 'secret\n "x" not found', "2026-01-01T00:05:00Z"),
        warning("caracal-expert-0", "Older", "older words", "2026-01-01T00:01:00Z"),
        warning("caracal-attention-0", "Unhealthy", "Readiness probe failed", "2099-01-01T00:00:00Z"),
        warning("caracal-router-0", "Unhealthy", "not of interest", "2026-01-01T00:00:00Z"),
    ]
    api.events = 200, {"items": events}
    output = _status(0)
    assert 'caracal-expert-0: FailedMount: secret "x" not found (' in output
    assert "min ago)" in output
    assert "caracal-attention-0: Unhealthy: Readiness probe failed\n" in output
    assert "words" not in output
    assert "not of interest" not in output
    api.events = 403, {"kind": "Status", "message": "events is forbidden"}
    output = _status(0)
    assert "caracal-expert-0: container x: ContainerCreating" in output
    assert "forbidden" not in output


def test_a_pod_that_waits_for_its_weights_says_where_to_look(api: FakeApi) -> None:
    running = {**_container({"running": {"startedAt": "2026-01-01T00:00:00Z"}}), "name": "weights"}
    waits = _container({"waiting": {"reason": "PodInitializing"}})
    api.states["caracal-expert-0"] = {
        "phase": "Pending",
        "conditions": [],
        "initContainerStatuses": [running],
        "containerStatuses": [waits],
    }
    assert "caracal-expert-0: init container weights runs; how far it is: kubectl logs POD -c weights" in _status(0)


def test_the_scheduler_is_not_quoted_twice(api: FakeApi) -> None:
    message = '0/1 nodes are available: persistentvolumeclaim "m" not found. not found'
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    api.states["caracal-expert-0"] = {"phase": "Pending", "conditions": [condition], "containerStatuses": []}
    assert 'caracal-expert-0: 0/1 nodes are available: persistentvolumeclaim "m" not found\n' in _status(0)


def test_scale_prints_what_it_waits_for_and_how_long(api: FakeApi) -> None:
    api.stuck = True
    code, output = run("scale", "expert=3", "--context", "lab", "--timeout", "4")
    why = "caracal-expert-1, caracal-expert-2: no node has 8 GPUs"
    printed = [line for line in output.splitlines() if line.startswith("caracal:")]
    assert (code, printed) == (1, [f"caracal: waiting for {why}", f"caracal: not reached within 4 s; {why}"])


def test_scale_does_not_wait_with_a_timeout_of_0(api: FakeApi) -> None:
    api.stuck = True
    assert run("scale", "expert=3", "--context", "lab", "--timeout", "0") == (0, "expert=3: set, without waiting\n")
    assert api.replicas["expert"] == 3


def test_scale_stops_when_somebody_else_sets_another_number(api: FakeApi) -> None:
    api.stuck, api.overwritten_by = True, 2
    expected = "somebody else set expert=2: no longer waiting for expert=3"
    assert expected in error_line("scale", "expert=3", "--context", "lab")


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "x", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
