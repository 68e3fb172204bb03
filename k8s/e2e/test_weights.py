"""Weights of a hub, fetched once into a claim that all pods mount: a killed Job, a damaged file, an old model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from k8s.e2e.bare_pods import container, named, pod
from k8s.e2e.cluster import Cluster, temporary, until
from k8s.e2e.nodes import worker_nodes
from k8s.e2e.targets import Target
from k8s.image.packages import REPOSITORY

CLASS, FOLDER, PORT = "caracal-e2e-weights", "/var/tmp/caracal-e2e-weights", 8080
FIRST = "hf://org/model@v1"
SECOND = "hf://org/model@0123456789abcdef0123456789abcdef01234567"
ROLES = ("router", "attention", "expert")
BIG = "model-00001-of-00003.safetensors"
CLEAR = f"import os, shutil; shutil.rmtree('{FOLDER}', True)"
KILL_S = 4.0  # after the first bytes of a file that takes 12 s
STORES = REPOSITORY / "tests/support"
VALUES = {
    "model__uri": FIRST,
    "model__fetch__mode": "claim",
    "model__fetch__endpoint": f"http://hub:{PORT}",
    "model__fetch__claim__storageClass": CLASS,
    "model__fetch__claim__size": "1Gi",
    "model__fetch__claim__keep": 1,
}
DAMAGE = "import sys; file = open(sys.argv[1], 'r+b'); file.seek(-9, 2); byte = file.read(1)[0]; file.seek(-9, 2); "
DAMAGE += "file.write(bytes([byte ^ 1])); file.close()"


@pytest.fixture
def release(target: Target) -> Iterator[Cluster]:
    """Yields a namespace with a slow hub, and a volume on one node that a claim of the release will get."""
    node = worker_nodes(Cluster(target), 1)[0]
    with temporary(target, "caracal-weights") as release, _volume(release, node):
        modules = {name: (STORES / name).read_text() for name in ("weight_stores.py", "json_server.py")}
        modules["hub.py"] = Path(__file__).with_name("hub.py").read_text()
        ports = [{"port": PORT}]
        release.apply(
            named("ConfigMap", "hub", data=modules),
            named("Service", "hub", spec={"selector": {"app": "hub"}, "ports": ports}),
            named("Pod", "hub", {"app": "hub"}, spec=_hub(release.image)),
        )
        release.kubectl("wait", "--for=condition=Ready", "pod/hub", "--timeout=120s")
        yield release


def _hub(image: str) -> dict[str, Any]:
    paths = {"hub.py": "hub.py"} | {name: f"support/{name}" for name in ("weight_stores.py", "json_server.py")}
    items = [{"key": key, "path": path} for key, path in paths.items()]
    program = container("hub", image, ["python", "/program/hub.py"], {"program": "/program"}, PORT)
    program["env"] = [{"name": "URL", "value": f"http://hub:{PORT}"}]
    return pod([program], [{"name": "program", "configMap": {"name": "hub", "items": items}}])


@contextmanager
def _volume(release: Cluster, node: str) -> Iterator[None]:
    """A volume in a folder of that node, which everybody may write to."""
    affinity = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "storageClassName": CLASS,
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": FOLDER, "type": "DirectoryOrCreate"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [affinity]}]}},
    }
    with temporary(release.target, "caracal-volume", security="privileged") as setup:
        _as_root(setup, node, "make", f"{CLEAR}; os.makedirs('{FOLDER}'); os.chmod('{FOLDER}', 0o777)")
        release.apply(named("PersistentVolume", CLASS, spec=spec))
        try:
            yield
        finally:
            release.kubectl("delete", "persistentvolume", CLASS, "--wait=false")
            _as_root(setup, node, "clear", CLEAR)


def _as_root(setup: Cluster, node: str, name: str, program: str) -> None:
    """Runs a program on the node, where it sees the folder of the volume's."""
    made = container(name, setup.image, ["python", "-c", program], {"node": str(Path(FOLDER).parent)})
    made["securityContext"] = {"runAsUser": 0}
    spec = pod([made], [{"name": "node", "hostPath": {"path": str(Path(FOLDER).parent)}}])
    spec |= {"securityContext": {}, "nodeName": node, "restartPolicy": "Never"}
    setup.apply(named("Pod", name, spec=spec))
    until(lambda: setup.get("pod", name)["status"]["phase"] == "Succeeded", f"pod {name} does not succeed")


def _folder(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def _ranges(release: Cluster, name: str) -> list[tuple[int, int]]:
    """What was asked for of a file so far, as (begin, end)."""
    found = [json.loads(line) for line in release.kubectl("logs", "hub").splitlines() if line.startswith("{")]
    return [(one["begin"], one["end"]) for one in found if one["name"] == name]


def _jobs(release: Cluster, component: str) -> list[str]:
    found = release.get("jobs", "-l", f"app.kubernetes.io/component={component}")["items"]
    return [job["metadata"]["name"] for job in sorted(found, key=lambda job: str(job["metadata"]["creationTimestamp"]))]


def _log_of_job(release: Cluster, component: str) -> str:
    """The log of the newest of a component's Jobs."""
    return release.kubectl("logs", f"job/{_jobs(release, component)[-1]}")


def _uids(release: Cluster) -> set[str]:
    return {one["metadata"]["uid"] for role in ROLES for one in release.pods(role)}


def test_weights_of_a_hub_in_a_claim(release: Cluster) -> None:
    release.install("install", **VALUES)
    _kill_the_job(release)
    release.wait_for_pods(router=1, attention=1, expert=1)
    begins = [begin for begin, _ in _ranges(release, BIG)]
    assert max(begins) > 0, "the next pod of the Job began anew"
    assert "12 + 30 = 42" in release.helm("test", release.release, "--logs")
    _repair(release)
    _prune(release)


def _kill_the_job(release: Cluster) -> None:
    """In the middle of a file; pods wait meanwhile, and say for what."""
    until(lambda: _ranges(release, BIG), "the Job fetches nothing")
    expert = f"{release.release}-expert-0"
    until(lambda: "waits for the weights" in release.kubectl("logs", expert, "-c", "weights"), "no pod waits")
    assert {one["status"]["phase"] for role in ROLES for one in release.pods(role)} == {"Pending"}
    time.sleep(KILL_S)
    selector = "app.kubernetes.io/component=weights"
    release.kubectl("delete", "pods", "-l", selector, "--force", "--grace-period=0", "--wait=false")


def _repair(release: Cluster) -> None:
    """A bit of a file is another one on the disk: a Job finds the file, and no pod restarts."""
    claim = {"claimName": f"{release.release}-weights"}
    path = f"/model/{_folder(FIRST)}/{BIG}"
    damage = container("damage", release.image, ["python", "-c", DAMAGE, path], {"model": "/model"})
    spec = pod([damage], [{"name": "model", "persistentVolumeClaim": claim}], restartPolicy="Never")
    release.apply(named("Pod", "damage", spec=spec))
    until(lambda: release.get("pod", "damage")["status"]["phase"] == "Succeeded", "the file is not damaged")
    before, asked = _uids(release), len(_ranges(release, BIG))
    release.install("upgrade", **VALUES, model__fetch__verify="again")
    until(lambda: "the weights are there" in _log_of_job(release, "weights"), "the Job does not complete", 180)
    assert "is not what its digest says and is fetched again" in _log_of_job(release, "weights")
    assert len(_ranges(release, BIG)) > asked
    assert _uids(release) == before


def _prune(release: Cluster) -> None:
    """The first model goes once no pod names it; another log level is another Job."""
    second = VALUES | {"model__uri": SECOND}
    release.install("upgrade", **second)
    release.wait_for_rollouts()
    release.wait_for_pods(router=1, attention=1, expert=1)
    release.install("upgrade", **second, logLevel="DEBUG")
    until(lambda: f"removed: {_folder(FIRST)}" in _log_of_job(release, "prune"), "the old model stays", 180)
    release.wait_for_rollouts()
    assert "12 + 30 = 42" in release.helm("test", release.release, "--logs")
