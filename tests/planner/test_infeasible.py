"""What cannot be is said in one line with the nearest that can, and that is feasible in its turn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.planning.question import Question, ask
from services.planner.traffic import Slo, Traffic

ON_GPUS = ["plan", "flash-chat", "--gpu", "h800"]
USAGE = 2


def line(words: list[str]) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == USAGE, done.output
    assert len(done.output.strip().splitlines()) == 1
    return done.output


def plan(words: list[str]) -> dict[str, object]:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.output)
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "flash-chat", "--gpu", "h300", "--gpus", "8"], "the nearest is 'h800'"),
        (["plan", "flash-chot", "--gpu", "h800", "--gpus", "8"], "the nearest is 'flash-chat'"),
        ([*ON_GPUS, "--gpus", "8", "--link", "infini"], "the nearest is 'infiniband'"),
        ([*ON_GPUS], "no traffic and no devices"),
        ([*ON_GPUS, "--rate", "0"], "no traffic and no devices"),
        ([*ON_GPUS, "--gpus", "8", "--answer", "0"], "the least is --prompt 1 --answer 1"),
        ([*ON_GPUS, "--budget", "1"], "buy no h800 at 2; the nearest: --budget 2"),
        ([*ON_GPUS, "--gpus", "64", "--weights", "fp7"], "the nearest is 'fp8'"),
        ([*ON_GPUS, "--gpus", "64", "--kv", "nvfp4"], "--kv 'nvfp4' is no dtype; the nearest is 'fp8'"),
        (["plan", "flash-chat", "--gpus", "8"], "--gpu names what to plan for"),
        ([*ON_GPUS, "--gpus", "8", "--profile", "/nonexistent"], "is no profile"),
        ([*ON_GPUS, "--gpus", "32", "--rate", "1", "--prompt", "131073"], "takes 131,072"),
        (["plan", "flash-chat", "--gpu", "cpu", "--gpus", "4"], "no number of cpu up to 8,192 holds"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words: list[str], said: str) -> None:
    assert said in line(words)


@pytest.mark.parametrize(
    "words",
    [
        [*ON_GPUS, "--gpus", "3"],
        [*ON_GPUS, "--gpus", "8"],
        [*ON_GPUS, "--gpus", "8", "--kv", "fp8"],
        [*ON_GPUS, "--gpus", "1", "--prompt", "100000"],
        [*ON_GPUS, "--gpus", "64", "--prompt", "500000"],
        [*ON_GPUS, "--gpus", "64", "--answer", "500000", "--ttft", "1000", "--itl", "1000"],
        [*ON_GPUS, "--gpus", "64", "--itl", "1"],
        [*ON_GPUS, "--gpus", "64", "--itl", "1", "--ttft", "0.01"],
        [*ON_GPUS, "--rate", "1", "--ttft", "0.01"],
        [*ON_GPUS, "--gpus", "32", "--rate", "100000"],
        [*ON_GPUS, "--gpus", "32", "--rate", "200"],
        [*ON_GPUS, "--rate", "1e9"],
        [*ON_GPUS, "--budget", "100", "--rate", "1000"],
        [*ON_GPUS, "--budget", "100", "--gpus", "64"],
        [*ON_GPUS, "--budget", "10"],
        ["plan", "flash-chat", "--gpu", "gb200", "--gpus", "512"],
        ["plan", "flash-chat", "--gpu", "gb200", "--rate", "10000"],
        ["plan", "flash-lite", "--gpu", "h200", "--gpus", "64", "--link", "nvlink"],
        [*ON_GPUS, "--gpus", "4", "--budget", "9"],
    ],
)
def test_the_nearest_is_feasible(words: list[str]) -> None:
    """Every option that a line names, in place of those that were given."""
    said = line(words)
    nearest = said.rpartition("feasible: ")[2].partition(", or ")[0].partition(" (")[0].split()
    assert nearest, said
    plan([*words, *nearest])  # the last of two equal options counts


def test_the_other_way_out_is_feasible_too() -> None:
    said = line([*ON_GPUS, "--gpus", "32", "--rate", "200"])
    more = re.search(r"or --gpus (\d+)", said)
    assert more is not None
    plan([*ON_GPUS, "--gpus", more[1], "--rate", "200"])


@pytest.mark.parametrize("rate", ["0.1", "1"])
def test_a_low_rate_takes_as_few_as_hold_the_model(rate: str) -> None:
    found = plan([*ON_GPUS, "--rate", rate])
    assert found["devices"] == 16


def test_a_budget_with_a_rate_takes_the_fewest() -> None:
    assert plan([*ON_GPUS, "--budget", "1000", "--rate", "5"])["devices"] == 16
    assert plan([*ON_GPUS, "--budget", "100"])["devices"] == 50


def test_a_budget_that_is_not_spent_says_so() -> None:
    found = plan([*ON_GPUS, "--budget", "1e9"])
    assert found["devices"] == 8192
    assert "buys 500,000,000 h800" in str(found["notes"])
    found = plan(["plan", "flash-chat", "--gpu", "gb200", "--budget", "1000"])
    assert found["devices"] == 72
    assert "the 72 that nvl72 joins" in str(found["notes"])


def test_fewer_devices_do_not_serve_the_rate() -> None:
    """One machine less than were found is too few, or does not hold the model."""
    for rate in (40.0, 123.0):
        traffic, slo = Traffic(rate=rate), Slo(itl_s=0.05, ttft_s=5.0)
        found = ask(Question(model="flash-chat", gpu="h800", traffic=traffic, slo=slo))
        assert found.answer.winner.rate >= rate
        assert found.answer.winner.ttft_percentile_s(traffic, rate) <= 5.0
        fewer = [*ON_GPUS, "--gpus", str(found.answer.devices - 8), "--rate", str(rate)]
        assert "the nearest that is feasible: --rate" in line(fewer)


def test_a_prompt_that_no_number_of_devices_holds(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text('[devices.small]\nlike = "h800"\nmemory_gb = 10\n')
    words = ["plan", "flash-chat", "--gpu", "small", "--profile", str(file), "--prompt", "130000", "--ttft", "90"]
    for more in (["--gpus", "8"], ["--gpus", "4096"], ["--rate", "1"]):
        said = line([*words, *more])
        assert "no number of small up to 8,192 holds LongCat-Flash-Chat in fp8 and a request of 131,000 tokens" in said
        plan([*words, *more, *said.rpartition("feasible: ")[2].split()])


def test_a_link_of_a_profile_has_its_domain(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[links.rack]\ngb_s = 100\nlatency_us = 5\ndomain = 16\n")
    words = ["--link", "rack", "--profile", str(file)]
    assert "more than the 16 that rack joins" in line([*ON_GPUS, "--gpus", "17", *words])
    assert plan([*ON_GPUS, "--gpus", "16", *words])["link"] == "rack"
