"""`caracal scale` and `status` with --context, against a small HTTP server with the routes they use."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.kube_api import FakeApi
from support.kube_command import error_line, run, write_kubeconfig

from services.cli.kube.release import Release
from services.cli.run_state import NoCluster
from services.process.settings import InvalidSetting


def test_scale_patches_and_waits(api: FakeApi) -> None:
    code, output = run("scale", "expert=3", "attention=2", "--context", "lab")
    assert code == 0, output
    assert api.replicas == {"attention": 2, "expert": 3}
    assert "expert=3, attention=2: reached in" in output
    assert api.reconciled, "it did not wait for the pods"


def test_scale_counts_each_role_by_itself_and_waits_for_deleted_pods(api: FakeApi) -> None:
    api.start(attention=1, expert=2)
    code, output = run("scale", "expert=1", "attention=2", "--context", "lab")
    assert code == 0, output
    assert api.reconciled, "the same number of pods is not yet the requested pods"


def test_scale_to_no_pod_at_all(api: FakeApi) -> None:
    code, output = run("scale", "expert=0", "attention=0", "--context", "lab")
    assert code == 0, output
    assert (api.replicas, api.reconciled) == ({"attention": 0, "expert": 0}, True)


def test_scale_says_why_it_is_not_reached(api: FakeApi) -> None:
    api.stuck = True
    with pytest.raises(InvalidSetting, match=r"not reached within 0\.1 s; caracal-expert-1: no node has 8 GPUs"):
        Release("lab").scale({"expert": 2}, wait_s=0.1)


def test_status_shows_workloads_pods_and_workers(api: FakeApi) -> None:
    code, output = run("status", "--context", "lab")
    assert code == 0, output
    assert "release caracal in namespace models of lab" in output
    rows = [line.split() for line in output.splitlines()]
    assert ["caracal-expert", "1", "1"] in rows
    assert ["caracal-router", "1", "1"] in rows
    assert ["caracal-attention-0", "Running", "yes", "3", "n1"] in rows
    assert "epoch 7" in output
    assert "warning: too few" in output


@pytest.mark.parametrize("where", ["containerStatuses", "initContainerStatuses"])
def test_status_shows_the_last_log_line_of_a_container(api: FakeApi, where: str) -> None:
    log = "starting\ncaracal: model-1.safetensors: model.norm.weight: truncated"
    api.ended = where, {"exitCode": 2, "reason": "Error", "message": log}
    assert f"caracal-expert-0: {log.splitlines()[1]} (Error, exit code 2)" in run("status", "--context", "lab")[1]
    api.ended = where, {"exitCode": 137, "reason": "OOMKilled"}
    assert "caracal-expert-0: OOMKilled, exit code 137" in run("status", "--context", "lab")[1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((503, {"error": {"message": "Redis does not answer: gone"}}), "answers: Redis does not answer: gone"),
        ((403, {"kind": "Status", "message": "may not get pods/proxy"}), "of lab answers 403: may not get pods/proxy"),
        ((200, {"hello": "world"}), "is not a Caracal gateway"),
    ],
)
def test_status_without_the_workers(api: FakeApi, answer: tuple[int, dict[str, Any]], expected: str) -> None:
    api.proxied = answer
    code, output = run("status", "--context", "lab")
    assert (code, expected in output, "caracal-expert-0" in output) == (0, True, True), output


def test_one_of_several_releases_must_be_named(api: FakeApi) -> None:
    api.releases = ["caracal", "other"]
    assert "name one with --release: caracal, other" in error_line("scale", "expert=2", "--context", "lab")
    assert "no release 'third'" in error_line("scale", "expert=2", "--context", "lab", "--release", "third")
    assert run("scale", "expert=1", "--context", "lab", "--release", "caracal")[0] == 0
    api.releases = []
    assert "namespace models of lab has no release of Caracal" in error_line("status", "--context", "lab")


def test_status_as_json(api: FakeApi) -> None:
    code, output = run("status", "--context", "lab", "--json")
    found = json.loads(output)
    assert (code, found["serving"], found["not_ready_reason"]) == (0, True, "")
    assert (found["release"], found["namespace"], found["context"]) == ("caracal", "models", "lab")
    assert {"name": "caracal-expert", "desired": "1", "ready": "1", "reason": ""} in found["workloads"]
    assert [one["pod"] for one in found["pods"]] == ["caracal-attention-0", "caracal-expert-0", "caracal-router-0"]
    assert found["cluster"]["leader"] == "caracal-router-0"
    api.ready = 503, {"reason": "no attention worker"}
    code, output = run("status", "--context", "lab", "--json")
    found = json.loads(output)
    assert (code, found["serving"], found["not_ready_reason"]) == (3, False, "no router is ready")
    assert found["cluster"] is None


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("status", "--context", "elsewhere"), 1, "no context 'elsewhere'; it has: lab"),
        (("status", "--context", "lab", "--namespace", "empty"), 1, "the API server of lab answers 404"),
        (("scale", "expert=-1", "--context", "lab"), 2, "must be at least 0"),
        (("scale", "expert=10001", "--context", "lab"), 2, "more than 10000 pods"),
        (("scale", "router=2", "--context", "lab"), 2, "scale takes"),
        (("scale", "expert=2", "--namespace", "models"), 2, "--namespace and --release go with --context"),
        (("status", "--context", "lab", "--gateway", "http://127.0.0.1:1"), 2, "name two clusters"),
    ],
)
def test_mistakes_get_one_line(api: FakeApi, words: tuple[str, ...], code: int, expected: str) -> None:
    assert expected in error_line(*words, code=code)


def test_a_server_that_forbids_is_not_kubernetes_or_does_not_answer(api: FakeApi, kubeconfig: Path) -> None:
    api.answer = 403, {"kind": "Status", "message": 'statefulsets.apps is forbidden: User "cat" cannot list'}
    expected = 'the API server of lab answers 403: statefulsets.apps is forbidden: User "cat" cannot list'
    assert expected in error_line("status", "--context", "lab")
    api.answer = 200, "<html>"
    assert "the API server of lab does not answer like Kubernetes" in error_line("status", "--context", "lab")
    write_kubeconfig(kubeconfig, api.url.replace("http:", "https:"))
    assert "the API server of lab does not answer: [SSL" in error_line("status", "--context", "lab")
    write_kubeconfig(kubeconfig, "http://127.0.0.1:1")
    assert "the API server of lab does not answer: Connection refused" in error_line("status", "--context", "lab")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "there is no kubeconfig at"),
        ("a: [b", "expected ',' or ']'"),
        ("hello", "config is not a kubeconfig: it has no clusters"),
        ("", "or it is empty"),
        ("a: 1", "has no context 'lab'; it has: none"),
        ('{"contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u"}}]}', "name c in"),
        ('{"contexts": [{"name": "lab"}]}', "config:"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(kubeconfig: Path, text: str | None, expected: str) -> None:
    if text is not None:
        kubeconfig.write_text(text)
    output = error_line("status", "--context", "lab")
    assert str(kubeconfig) in output
    assert expected in output


def test_files_that_are_missing_or_empty_are_skipped(
    api: FakeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = kubeconfig.with_name("empty")
    empty.touch()
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, (kubeconfig.with_name("none"), empty, kubeconfig))))
    assert run("status", "--context", "lab")[0] == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("server", ["notaurl", "127.0.0.1:6443", "https:", "ftp://x"])
def test_a_server_that_is_no_address(kubeconfig: Path, server: str) -> None:
    write_kubeconfig(kubeconfig, server)
    assert f"server '{server}' is not a URL: write https://HOST:PORT" in error_line("status", "--context", "lab")


def test_a_server_that_never_answers(kubeconfig: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        write_kubeconfig(kubeconfig, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(NoCluster, match=r"^the API server of lab does not answer within 0\.3 s$"):
            Release("lab", timeout_s=(5, 0.3))
        with pytest.raises(NoCluster, match=r"^the API server of lab does not answer within 0\.2 s$"):
            Release("lab", timeout_s=(0.2, 5))  # the first call is still in the queue of length 1


@pytest.mark.parametrize(
    "words",
    [
        ("scale", "expert=2", "--context", ""),
        ("status", "--context", ""),
        ("status", "--gateway", ""),
        ("status", "--context", "lab", "--namespace", ""),
        ("scale", "expert=2", "--context", "lab", "--release", ""),
        ("generate", "hi", "--url", ""),
    ],
)
def test_an_empty_argument_is_an_error(api: FakeApi, words: tuple[str, ...]) -> None:
    assert f"caracal: {words[-2]} is empty" in error_line(*words, code=2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("expert=3", "expert=2"), "expert is given twice"),
        (("expert=2147483648",), "2147483648 is too large"),
        (("expert=" + "9" * 5000,), "is too large"),
        (("expert=--3",), "'--3' is not a whole number"),
        (("expert=3.5",), "'3.5' is not a whole number"),
    ],
)
def test_counts_that_are_mistakes(api: FakeApi, words: tuple[str, ...], expected: str) -> None:
    output = error_line("scale", *words, "--context", "lab", code=2)
    assert expected in output
    assert len(output) < 100


@pytest.mark.processes
def test_without_the_client_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "kubernetes.py").write_text("raise ModuleNotFoundError('not installed', name='kubernetes')")
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.app", "status", "--context", "lab"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "caracal: --context needs the official client: pip install 'caracal[k8s]'\n",
    )
