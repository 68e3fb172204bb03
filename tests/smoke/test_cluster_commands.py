"""The commands of README's first section, in its order, against the cluster that `make up` starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from urllib.request import urlopen

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes


def test_readme_in_order(shell: Shell) -> None:
    record = shell.folder / "record.jsonl"
    process = shell.start("make", "up", f"UP=--port 0 --record {record}")
    try:
        output = until(process, "Ctrl-C stops everything")
        assert "> What is" in output
        address = re.search(r"http://127\.0\.0\.1:\d+", output)
        assert address
        url = address[0]
        assert shell.run("caracal", "generate", "What is 12 + 30?").strip().endswith("42")
        assert "expert=3: reached in" in shell.run("caracal", "scale", "expert=3")
        assert re.search(r"expert-2 .*serving", shell.run("caracal", "status"))
        assert "weights" in shell.run("caracal", "status", "--numerics")
        assert "sha256" in shell.run("caracal", "key", "alice")
        assert "attention-0" in shell.run("caracal", "top", "--once", "--interval", "0.5")
        assert "experts are ready" in shell.run("caracal", "logs", "expert-2", "--tail", "50")
        assert "7 * 8 = 56" in shell.run("caracal", "chat", "--temperature", "0", input="What is 7 * 8?\n")
        assert shell.run("caracal", "verify", str(record), "--running").endswith(" tokens, 0 bits differ\n")
        few = ("--num-prompts", "4", "--max-concurrency", "2", "--random-input-len", "20", "--random-output-len", "8")
        assert "Successful requests:                     4\n" in shell.run("caracal", "bench", "serve", *few)
        admin = re.search(r"(http://127\.0\.0\.1:\d+)/console/", output)
        assert admin
        assert b"workers" in urlopen(f"{admin[1]}/cluster").read()
        assert b"swagger" in urlopen(f"{url}/docs").read()
        results = shell.folder / "evaluation.json"
        evaluate = ("python", "-m", "training.evaluate", "--url", url, "--dialogues", "4", "--out", str(results))
        assert "exact" in shell.run(*evaluate)
        assert results.exists()
        tasks = ("python", "-m", "training.agentic.bench", "--url", url, "--tasks", "2", "--trials", "2")
        assert "pass^2 caracal-tiny" in shell.run(*tasks)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(process: subprocess.Popen[str], words: str) -> str:
    """Returns stdout up to the line with `words`."""
    assert process.stdout
    assert process.stderr
    output = ""
    for line in process.stdout:
        output += line
        if words in line:
            return output
    raise AssertionError(f"it ended: {output}\n{process.stderr.read()}")


def test_plan(shell: Shell) -> None:
    assert "expert" in shell.run("caracal", "plan", "flash-chat")
    file = shell.folder / "plan.json"
    planned = ("caracal", "plan", "flash-chat", "--gpu", "h800", "--gpus", "128", "--itl", "50")
    file.write_text(shell.run(*planned, "--json"))
    assert "How sure" in shell.run(*planned, "--values", str(file.with_suffix(".yaml")))
    assert "separate" in json.loads(file.read_text())["ways"]
    with pytest.raises(AssertionError, match="no cluster"):
        shell.run("caracal", "status", "--plan", str(file))
