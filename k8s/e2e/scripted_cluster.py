"""A private cluster made by a folder of scripts: prep.sh, images.sh, up.sh, n, node-kill, node-start, down.sh.

Its state, networks and cgroup are separate from those of any other cluster of the same scripts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from k8s.e2e.build import IMAGE, NODES, OTHER_TAG, build_image, run

OWN_NETWORKS = {"NET": "10.251.0", "PODPFX": "10.245", "SVCPFX": "10.97", "CG": "caracal-e2e"}
PREPARE_S = 600


class ScriptedCluster:
    """Needs root. The scripts' state is in the folder $R, by default ~/.cache/k8s-lab."""

    image, other_tag = IMAGE, OTHER_TAG
    own = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._root = Path(os.environ.get("R") or Path.home() / ".cache/k8s-lab")
        self._environment = {**os.environ, **OWN_NETWORKS, "R": str(self._root), "W": str(self._root / "caracal-e2e")}

    def start(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        if not (self._root / "bin/kubectl").exists() or not (self._root / "golden/root").exists():
            self._script("prep.sh")
        shutil.copyfile(build_image(), self._root / "img/caracal-e2e.tar")
        self._script("images.sh")
        self._script("down.sh")
        self._script("up.sh", str(NODES))

    def stop(self) -> None:
        self._script("down.sh")

    def command(self, program: str) -> list[str]:
        return [*self.prefix(), program]

    def prefix(self) -> list[str]:
        variables = [f"{name}={self._environment[name]}" for name in (*OWN_NETWORKS, "R", "W")]
        return ["env", *variables, str(self._folder / "n"), "0"]

    def power_off(self, node: str) -> None:
        self._script("node-kill", node.removeprefix("n"))

    def power_on(self, node: str) -> None:
        start = [*self.command("setsid"), str(self._folder / "node-start"), node.removeprefix("n")]
        subprocess.Popen(start, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_api_server(self) -> None:
        run(*self.command("sh"), "-c", "kill -9 $(pgrep -x kube-apiserver)")

    def add_metrics(self) -> None:
        run(*self.command("kubectl"), "apply", "-f", str(self._folder / "metrics.yaml"))

    def _script(self, name: str, *arguments: str) -> None:
        """Runs a script. Its output goes to a file, because the cluster's processes would keep a pipe open."""
        log = self._root / f"caracal-e2e-{name}.log"
        started = time.monotonic()
        with log.open("wb") as out:
            done = subprocess.run(
                [str(self._folder / name), *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=PREPARE_S,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{name} failed after {time.monotonic() - started:.0f} s: {log.read_text()[-2000:]}")
