"""`caracal plan --gpu`: a page, JSON, a picture; and the plan beside a cluster."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.planning.compare import Plan, read_plan, rows, show
from services.cli.planning.errors import BadPlan
from services.cli.planning.models import find_shape
from services.cli.planning.question import Question, ask
from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.planner.families import FLASH_CHAT
from services.planner.traffic import Slo, Traffic

ON_GPUS = ["plan", "flash-chat", "--gpu", "h800"]
SECONDS = 2.0


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_page_that_a_buyer_can_read() -> None:
    page = run(*ON_GPUS, "--gpus", "128", "--itl", "50", "--ttft", "5")
    for part in ("How sure", "The best of each way", "USD per million", "Frontier", "after the loss of one worker"):
        assert part in page
    assert "Separate pools" in page or "Colocated experts" in page


def test_every_published_config_is_answered_in_two_seconds() -> None:
    """By CPU time: a test machine may have other work."""
    for model in ("flash-chat", "flash-lite", "longcat-2.0", "deepseek-v3", "qwen3-235b"):
        before = time.process_time()
        found = json.loads(run("plan", model, "--gpu", "h200", "--gpus", "128", "--json"))
        assert time.process_time() - before < SECONDS, model
        assert found["ways"]["colocated"]["tokens_s_per_device"] > 0


def test_json_has_what_the_page_has() -> None:
    found = json.loads(run(*ON_GPUS, "--gpus", "64", "--rate", "5", "--json"))
    assert found["winner"] in found["ways"]
    best = max(found["ways"].values(), key=lambda way: way["requests_s"])
    assert found["ways"][found["winner"]] == best
    separate = found["ways"]["separate"]
    assert separate["attention"] + separate["experts"] == 64
    assert separate["expert_workers"] == separate["experts"]
    assert separate["pages"] > 0
    assert found["traffic"] == {"requests_s": 5, "prompt": 4000, "answer": 1000, "cached": 0, "spread": 1}
    assert found["slo"] == {"itl_ms": 50, "ttft_p99_s": 5}
    assert (found["weights"], found["kv"], found["usd_per_device_hour"]) == ("fp8", "bf16", 2)
    front = [(one["tokens_s_per_user"], one["tokens_s_per_device"]) for one in found["frontier"]]
    assert front == sorted(front, key=lambda one: (-one[0], one[1]))


def test_the_frontier_as_a_picture(tmp_path: Path) -> None:
    run(*ON_GPUS, "--gpus", "64", "--plot", str(tmp_path / "front.svg"))
    root = ElementTree.parse(tmp_path / "front.svg").getroot()
    assert len([one for one in root.iter() if one.tag.endswith("polyline")]) == 3


def test_a_tighter_slo_never_serves_more() -> None:
    def rate(itl_ms: float) -> float:
        q = Question(model="flash-chat", gpu="h800", gpus=64, traffic=Traffic(), slo=Slo(itl_s=itl_ms / 1e3))
        return ask(q).answer.winner.rate

    assert rate(100) >= rate(50) >= rate(25) > 0


def test_cached_prompts_and_shorter_answers_serve_more() -> None:
    def rate(traffic: Traffic) -> float:
        return ask(Question(model="flash-chat", gpu="h800", gpus=64, traffic=traffic, slo=Slo())).answer.winner.rate

    plain = rate(Traffic())
    assert rate(Traffic(cached=0.9)) > plain
    assert rate(Traffic(answer=250.0)) > plain


def test_a_rate_is_served_by_what_is_planned_for_it() -> None:
    found = ask(Question(model="flash-chat", gpu="h200", traffic=Traffic(rate=30.0), slo=Slo(itl_s=0.05)))
    assert found.answer.winner.rate >= 30
    assert found.answer.winner.devices <= found.answer.devices


def test_a_file_that_cannot_be_written_is_a_failure() -> None:
    done = CliRunner().invoke(app, [*ON_GPUS, "--gpus", "64", "--plot", "/nonexistent/a.svg"])
    assert done.exit_code == 1
    assert "--plot /nonexistent/a.svg: No such file" in done.output


def test_a_family_by_name_is_its_checkpoint() -> None:
    """The published shape beside the counted one: norms and biases are all that the first leaves out."""
    counted = find_shape("flash-chat")
    assert counted.attention == FLASH_CHAT.attention
    assert counted.attention_side_params == pytest.approx(FLASH_CHAT.attention_side_params, rel=1e-3)
    assert counted.draft_params == pytest.approx(FLASH_CHAT.draft_params, rel=1e-3)


def planned(path: Path, *more: str) -> Plan:
    path.write_text(run(*ON_GPUS, "--gpus", "64", *more, "--json"))
    return read_plan(path)


def test_a_cluster_beside_its_plan(tmp_path: Path) -> None:
    plan = planned(tmp_path / "plan.json", "--replicas", "2")
    numbers = plan.numbers
    cluster = [WorkerRecord(worker_id="router-0", role="router", address="h:1", boot_id="b")]
    attention = WorkerRecord(worker_id="a-0", role="attention", address="h:1", boot_id="b", epoch=1)
    for number in range(numbers["attention_workers"]):
        stats = {"kv_pages_total": float(numbers["pages"] - (number == 3)), "running": 7.0}
        cluster.append(replace(attention, worker_id=f"a-{number}", stats=stats))
    for number in range(numbers["expert_workers"] - 1):
        record = replace(attention, worker_id=f"e-{number}", role="expert", loaded=numbers["experts_per_worker"])
        cluster.append(record)
    good = {name: fits for name, _, _, fits in rows(plan, Overview(workers=tuple(cluster)))}
    assert good == {
        "attention workers": True,
        "expert workers": False,
        "routers": numbers["routers"] == 1,
        "replicas of an expert, on average": False,
        "experts on the fullest expert worker": True,
        "sequences on the fullest attention worker": True,
        "pages of the attention worker with fewest": False,
    }


def test_a_plan_that_another_way_has_won_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path / "plan.json")
    assert plan.winner != "separate"
    assert not show(plan, Overview())
    assert f"In this plan {plan.winner} has won." in capsys.readouterr().out


@pytest.mark.parametrize("field", ["pages", "tp", "replicas", "model_experts"])
def test_a_plan_with_a_wrong_field_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "plan.json"
    raw = json.loads(run(*ON_GPUS, "--gpus", "64", "--json"))
    raw["ways"]["separate"][field] = 1.5
    path.write_text(json.dumps(raw))
    with pytest.raises(BadPlan, match=f"{field} of the plan is no whole number"):
        read_plan(path)
    del raw["ways"]["separate"][field]
    path.write_text(json.dumps(raw))
    with pytest.raises(BadPlan, match="no plan with separate pools"):
        read_plan(path)
