"""The cluster under test: that of KUBECONFIG, else one of kind, else a private one made by scripts."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from k8s.e2e.build import BUILD, IMAGE, NODES, OTHER_TAG, NoTarget, NotSupported, build_image, run


class Target(Protocol):
    """A cluster to test on. `command` returns the command line that runs kubectl or helm against it, `prefix` what goes
    before a program that reads KUBECONFIG."""

    image: str
    other_tag: str  # of an image of the same name whose kernels are of another numerics class; empty = there is none
    own: bool  # made for these tests: its nodes may be labelled, cordoned, drained and switched off

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def command(self, program: str) -> list[str]: ...
    def prefix(self) -> list[str]: ...
    def power_off(self, node: str) -> None: ...
    def power_on(self, node: str) -> None: ...
    def kill_api_server(self) -> None: ...
    def add_metrics(self) -> None: ...


def find_target() -> Target:
    """Returns the first available kind of target. Raises NoTarget."""
    if os.environ.get("KUBECONFIG"):
        named = (os.environ.get(name, "") for name in ("CARACAL_E2E_IMAGE", "CARACAL_E2E_OTHER_TAG"))
        return ExistingCluster(*named)
    if shutil.which("kind"):
        return KindCluster()
    lab = os.environ.get("CARACAL_K8S_LAB")
    if lab:
        from k8s.e2e.scripted_cluster import ScriptedCluster

        return ScriptedCluster(Path(lab))
    raise NoTarget("no cluster to test on: set KUBECONFIG, or install kind, or set CARACAL_K8S_LAB")


@dataclass
class ExistingCluster:
    """The cluster of KUBECONFIG. It is left running, and no fault is injected into its nodes or its control plane."""

    image: str
    other_tag: str = ""
    own = False

    def start(self) -> None:
        if not self.image:
            raise NoTarget("KUBECONFIG is set: push the image of `make image` and name it in CARACAL_E2E_IMAGE")

    def stop(self) -> None:
        return

    def command(self, program: str) -> list[str]:
        return [program]

    def prefix(self) -> list[str]:
        return []

    def power_off(self, node: str) -> None:
        raise NotSupported(f"node {node} belongs to an existing cluster and is not powered off")

    def power_on(self, node: str) -> None:
        raise NotSupported(f"node {node} belongs to an existing cluster")

    def kill_api_server(self) -> None:
        raise NotSupported("the API server belongs to an existing cluster and is not killed")

    def add_metrics(self) -> None:
        if "metrics.k8s.io" not in run("kubectl", "api-versions"):
            raise NotSupported("the cluster has no metrics-server")


class KindCluster:
    """A cluster that kind creates, deleted afterwards."""

    image, other_tag = IMAGE, OTHER_TAG
    own = True
    NAME = "caracal-e2e"

    def start(self) -> None:
        roles = ["control-plane", *["worker"] * NODES]
        nodes = [{"role": role} for role in roles]
        config = BUILD / "kind.json"
        archive = build_image()
        config.write_text(json.dumps({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes}))
        kubeconfig = str(BUILD / "kind.kubeconfig")
        run("kind", "create", "cluster", "--name", self.NAME, "--config", str(config), "--kubeconfig", kubeconfig)
        run("kind", "load", "image-archive", str(archive), "--name", self.NAME)

    def stop(self) -> None:
        run("kind", "delete", "cluster", "--name", self.NAME)

    def command(self, program: str) -> list[str]:
        return [program, "--kubeconfig", str(BUILD / "kind.kubeconfig")]

    def prefix(self) -> list[str]:
        return ["env", f"KUBECONFIG={BUILD / 'kind.kubeconfig'}"]

    def power_off(self, node: str) -> None:
        run("docker", "kill", node)

    def power_on(self, node: str) -> None:
        run("docker", "start", node)

    def kill_api_server(self) -> None:
        run("docker", "exec", f"{self.NAME}-control-plane", "pkill", "-9", "kube-apiserver")

    def add_metrics(self) -> None:
        raise NotSupported("kind has no metrics-server")
