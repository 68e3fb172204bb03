"""The commands that make the built-in model anew, each in a tiny form."""

from __future__ import annotations

import json

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes


def test_search_for_mixtures(shell: Shell) -> None:
    folder = shell.folder / "search"
    few = ("--proxies", "3", "--tokens", "15000", "--run", str(folder / "run"))
    files = ("--mixtures", str(folder / "mixtures.json"), "--out", str(folder / "result.json"))
    assert "post-training" in shell.run("python", "-m", "training.curriculum.search", *few, *files)
    result = json.loads((folder / "result.json").read_text())
    chosen = {stage: found["shares"] for stage, found in result["chosen"].items()}
    assert json.loads((folder / "mixtures.json").read_text()) == chosen
    assert len(result["proxies"]) == 3
    assert (folder / "result.png").exists()


def test_the_whole_curriculum(shell: Shell) -> None:
    """From nothing to a model with drafts, roll-outs through a cluster included; then the same model evaluated."""
    folder = shell.folder / "curriculum"
    few = ("--steps", "4", "--rounds", "1", "--train-tasks", "1", "--samples", "1", "--agentic-steps", "1")
    fewer = ("--mtp-steps", "0", "--tasks", "2", "--trials", "1", "--dialogues", "2", "--threads", "1")
    folders = [part for name in ("run", "out", "docs") for part in (f"--{name}", str(folder / name))]
    assert "drafts accepted" in shell.run("make", "train", f"TRAIN={' '.join((*few, *fewer, *folders))}")
    config = json.loads((folder / "out" / "config.json").read_text())
    assert (config["num_nextn_predict_layers"], config["rope_theta"]) == (1, 50_000.0)
    assert set(json.loads((folder / "docs" / "curriculum.json").read_text())["exact"]) == {"seen", "words", "all"}
    assert list(json.loads((folder / "docs" / "agentic.json").read_text())["results"]) == ["before", "after round 1"]
    assert len(list((folder / "docs").glob("*.png"))) == 3
    unseen = ("--words", "all", "--dialogues", "2", "--model", str(folder / "out"))
    assert "exact" in shell.run("python", "-m", "training.evaluate", "--offline", *unseen)


def test_a_short_run_has_the_bits_that_are_kept(shell: Shell) -> None:
    """Those of a machine whose matrix products have other bits: the same on any number of threads."""
    kept = json.loads((shell.folder / "training" / "curriculum" / "short-run.json").read_text())
    short_run = ("python", "-m", "training.curriculum.short_run")
    found = json.loads(shell.run(*short_run, "--threads", "2"))
    if found["machine"] != kept["machine"]:
        kept = json.loads(shell.run(*short_run))
    assert found == kept


def test_rollouts_and_training_on_them(shell: Shell) -> None:
    folder = shell.folder / "agentic"
    few = ("--rounds", "1", "--train-tasks", "2", "--samples", "1", "--steps", "1", "--tasks", "2", "--trials", "1")
    where = ("--model", "models/caracal-tiny", "--run", str(folder / "run"), "--out", str(folder / "out"))
    printed = shell.run("python", "-m", "training.agentic", *few, *where, "--result", str(folder / "result.json"))
    assert "round 1: {'rollouts': 2" in printed
    assert (folder / "out" / "model.safetensors.index.json").exists()
    assert (folder / "result.png").exists()
