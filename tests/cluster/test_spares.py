"""Spare processes: one takes the place of a worker that has died, another one is made, and none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.cluster_harness import ClusterUnderTest, answer_of, running_cluster, until
from support.user_commands import lines_until, up

from services.cli.scale import serves
from services.local.spares import Spares
from services.process.children import Child

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, os, signal, sys
import services.process.start_times as start_times

def main():
    times, variable = start_times.StartTimes(), os.environ.get("SAID")
    print(json.dumps({"pid": os.getpid(), "said": variable, "input": sys.stdin.read(), **times.parts}), flush=True)
    print("on stderr", file=sys.stderr, flush=True)
    signal.pause()
"""


@pytest.fixture
def spares(tmp_path: Path) -> Iterator[Spares]:
    """Two spares of a small program."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__main__.py").write_text(PROGRAM)
    path = os.pathsep.join(map(str, (tmp_path, REPO)))
    made = Spares(2, ["program"], tmp_path, {"PYTHONPATH": path, "SAID": "at first"}, pause_s=0)
    yield made
    made.end()


def filled(spares: Spares) -> list[Child]:
    spares.fill()
    until(lambda: len(spares.ready) == 2, "no spares")
    return spares.ready


def said(child: Child) -> dict[str, object]:
    """What the program printed once it ran."""
    until(lambda: "on stderr" in child.log.read_text(), child.log.read_text())
    return dict(json.loads(child.log.read_text().splitlines()[0]))


def stop(child: Child) -> None:
    child.signal(signal.SIGKILL)
    child.process.wait()


def test_a_spare_becomes_the_process_that_is_asked_for(spares: Spares, tmp_path: Path) -> None:
    first, second = filled(spares)
    began = time.monotonic()
    child = spares.take("worker-0", "program", tmp_path / "worker-0.log", {"SAID": "later"})
    assert child is not None
    try:
        assert (child.pid, child.name, child.log) == (first.pid, "worker-0", tmp_path / "worker-0.log")
        found = said(child)
        assert (found["pid"], found["said"], found["input"]) == (first.pid, "later", "")
        assert float(str(found["imports_s"])) <= time.monotonic() - began, "the wait as a spare counts as its start"
        assert spares.waiting == [second]
        assert not first.log.exists()
        assert filled(spares)[0].pid == second.pid
        assert child.alive
    finally:
        stop(child)


def test_spares_that_have_died_are_passed_over_and_made_again(spares: Spares, tmp_path: Path) -> None:
    first, second = filled(spares)
    stop(first)
    child = spares.take("worker-0", "program", tmp_path / "log", {})
    assert child is not None
    assert child.pid == second.pid
    stop(child)
    for one in filled(spares):
        stop(one)
    assert spares.take("worker-0", "program", tmp_path / "log", {}) is None
    assert len(filled(spares)) == 2


def test_a_spare_that_cannot_import_is_not_tried_again_at_once(tmp_path: Path) -> None:
    spares = Spares(1, ["no_such_module"], tmp_path, {"PYTHONPATH": str(REPO)})
    spares.fill()
    only = spares.waiting[0]
    until(lambda: not only.alive, "it runs")
    assert spares.ready == []
    assert "no_such_module" in only.last_log_line()
    spares.fill()
    assert spares.waiting == []


def test_a_spare_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Without the signal that Linux sends to children of a dead parent, too: its input ends."""
    command = [sys.executable, "-m", "services.process.spare"]
    with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as spare:
        assert spare.stdin is not None
        assert spare.stdout is not None
        assert json.loads(spare.stdout.readline())["event"] == "spare"
        spare.stdin.close()
        assert spare.wait(30) == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterUnderTest]:
    waiting = []
    for made in running_cluster(tmp_path, spares=1):
        yield made
        waiting = [one.process for one in made.local.spares.waiting]
    assert not [one.pid for one in waiting if one.poll() is None], "left behind"


@pytest.mark.parametrize("role", ["expert", "attention"])
def test_a_killed_worker_is_replaced_by_the_spare_and_no_bit_changes(cluster: ClusterUnderTest, role: str) -> None:
    local, name = cluster.local, f"{role}-0"
    before = answer_of(cluster)
    assert before
    until(lambda: local.spares.ready, "no spare")
    spare, killed, boot_id = local.spares.ready[0].pid, local.children[name].pid, cluster.records(role)[0].boot_id
    cluster.kill(name)
    until(
        lambda: any(serves(one) and one.boot_id != boot_id for one in cluster.records(role)), "it does not serve again"
    )
    assert local.children[name].pid == spare != killed
    until(lambda: answer_of(cluster) == before, "other bits, or none")
    until(lambda: local.spares.ready, "no new spare")


def test_ctrl_c_leaves_no_spare(user: dict[str, str], model: Path) -> None:
    with up(user, "--model", str(model), "--port", "0", "--spares", "2") as process:
        lines_until(process, "Ctrl-C stops everything")

        def waiting() -> list[psutil.Process]:
            children = psutil.Process(process.pid).children()
            return [one for one in children if "services.process.spare" in one.cmdline()]

        until(lambda: len(waiting()) == 2, "no spares")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        _, left = psutil.wait_procs(children, timeout=1)
        assert not left
    assert not list(Path(user["TMPDIR"]).iterdir())
