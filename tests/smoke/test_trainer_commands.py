"""Training and its experiments, each in a tiny form."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes


def test_train_and_evaluate(shell: Shell) -> None:
    folders = [part for name in ("run", "out", "docs") for part in (f"--{name}", str(shell.folder / "trained" / name))]
    shell.run("python", "-m", "training", "--steps", "2", "--mtp-steps", "0", *folders)
    assert (shell.folder / "trained" / "out" / "config.json").exists()
    assert (shell.folder / "trained" / "docs" / "training.png").exists()
    few = ("--dialogues", "4", "--data", "dialogues", "--model", str(shell.folder / "trained" / "out"))
    assert "exact" in shell.run("python", "-m", "training.evaluate", "--offline", *few)


def test_train_on_two_ranks(shell: Shell) -> None:
    """Two ranks begin a run, one goes on with it, watched."""
    folders = [part for name in ("run", "out", "docs") for part in (f"--{name}", str(shell.folder / "ranks" / name))]
    options = ("training", "--without", "mtp", *folders)
    shell.run("torchrun", "--nproc-per-node", "2", "-m", "--", *options, "--steps", "1")
    assert (shell.folder / "ranks" / "out" / "config.json").exists()
    assert "exported" in shell.run("python", "-m", *options, "--steps", "1", "--watch", "1")


def test_experiments_about_bits(shell: Shell) -> None:
    folder = shell.folder / "bits"
    few = {
        "determinism": (
            "--steps",
            "1",
            "--layers",
            "1",
            "--dialogues",
            "8",
            "--most-ranks",
            "2",
            "--precision",
            "fp32",
        ),
        "corruption": ("--trials", "1", "--intervals", "1", "--clean", "2", "--rounds", "2", "--layers", "1"),
        "ulp": ("--rows", "32"),
    }
    for name, options in few.items():
        places = ("--run", str(folder / "runs" / name), "--docs", str(folder))
        shell.run("python", "-m", f"training.experiments.{name}", *options, *places)
        assert (folder / f"{name}.png").exists()
    trials = json.loads((folder / "determinism.json").read_text())["trials"]
    assert len(trials) == 8
    assert all(trial["same_bits"] for trial in trials if trial["trial"].startswith("deterministic"))
    rows = json.loads((folder / "corruption.json").read_text())["coverage"]
    assert all(row["found"] == row["hit"] for row in rows if row["kind"] in ("weight", "optimizer state"))


def test_train_drafts_and_measure_them(shell: Shell) -> None:
    """On a copy of the built-in model: one that is not trained ends its answers late."""
    folder = shell.folder / "drafts"
    model, out = folder / "model", folder / "acceptance.json"
    shutil.copytree(shell.folder / "models" / "caracal-tiny", model)
    shell.run("python", "-m", "training.mtp", "--model", str(model), "--run", str(folder / "run"), "--steps", "1")
    few = ("--model", str(model), "--dialogues", "2", "--out", str(out))
    assert "tokens per step" in shell.run("python", "-m", "training.mtp.acceptance", *few)
    assert json.loads(out.read_text())["greedy"]["by_draft_length"]["1"]["drafted"] > 0


def test_experiments_of_training(shell: Shell) -> None:
    folder = shell.folder / "build" / "experiments"
    for name, seeds in (("compute_budget", ()), ("architecture", ("--seeds", "1")), ("stability", ("--seeds", "1"))):
        few = ("--steps", "3", *seeds, "--run", str(folder / name), "--docs", str(folder))
        assert "held-out" in shell.run("python", "-m", f"training.experiments.{name}", *few)
        page = name.replace("_", "-")
        assert json.loads((folder / f"{page}.json").read_text())["size"]["steps"] == 3
        assert (folder / f"{page}.png").exists()
    shell.run("python", "-m", "training.experiments.token_kinds", "--dialogues", "20", "--docs", str(folder))
    kinds = json.loads((folder / "token-kinds.json").read_text())["kinds"]
    assert {"digit of an answer", "function word", "tool-call syntax"} < kinds.keys()


def test_train_with_monitors(shell: Shell) -> None:
    folders = [part for name in ("run", "out", "docs") for part in (f"--{name}", str(shell.folder / "watched" / name))]
    options = ("--steps", "1", "--without", "mtp", "--without", "shortcut", "--metrics-port", "0", *folders)
    printed = shell.run("python", "-m", "training", *options)
    assert re.search(r"metrics: http://127\.0\.0\.1:\d+/metrics", printed)
    assert "not exported" in printed
