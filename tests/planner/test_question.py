"""`caracal plan --gpu`: a page, JSON, a picture; and one clear line for what cannot be, with the nearest that can."""

from __future__ import annotations

import json
import math
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.tiny_checkpoint import UNEVEN, make_checkpoint
from typer.testing import CliRunner

from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.loading import open_model
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.tensors import attention_tensors
from services.cli.app import app
from services.cli.plan import Sizes, config_of
from services.cli.planning.compare import read_plan, rows
from services.cli.planning.errors import BadPlan
from services.cli.planning.models import find_shape, shape_of
from services.cli.planning.question import Question, ask
from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.planner.families import FLASH_CHAT
from services.planner.memory import PAGE_TOKENS, on_device
from services.planner.serving import Serving
from services.planner.traffic import Slo, Traffic

ON_GPUS = ["plan", "flash-chat", "--gpu", "h800"]
USAGE, SECONDS = 2, 2.0


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "flash-chat", "--gpu", "h300", "--gpus", "8"], "the nearest is 'h800'"),
        (["plan", "flash-chot", "--gpu", "h800", "--gpus", "8"], "the nearest is 'flash-chat'"),
        ([*ON_GPUS, "--gpus", "8", "--link", "infini"], "the nearest is 'infiniband'"),
        ([*ON_GPUS], "no traffic and no devices"),
        ([*ON_GPUS, "--rate", "0"], "no traffic and no devices"),
        ([*ON_GPUS, "--gpus", "8", "--answer", "0"], "the least is --prompt 1 --answer 1"),
        ([*ON_GPUS, "--gpus", "3"], "do not hold LongCat-Flash-Chat in fp8; the nearest that is feasible: --gpus"),
        ([*ON_GPUS, "--gpus", "64", "--itl", "1"], "meets the SLO; the nearest that is feasible:"),
        ([*ON_GPUS, "--gpus", "32", "--rate", "100000"], "the nearest that is feasible: --rate"),
        ([*ON_GPUS, "--rate", "1e9"], "the nearest that is feasible: --rate"),
        ([*ON_GPUS, "--budget", "1"], "buy no h800 at 2; the nearest: --budget 2"),
        ([*ON_GPUS, "--gpus", "64", "--prompt", "500000"], "the nearest that is feasible: --prompt"),
        ([*ON_GPUS, "--gpus", "64", "--weights", "fp7"], "the nearest is 'fp8'"),
        (["plan", "flash-chat", "--gpus", "8"], "--gpu names what to plan for"),
        ([*ON_GPUS, "--gpus", "8", "--profile", "/nonexistent"], "is no profile"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == USAGE
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_file_that_cannot_be_written_is_a_failure() -> None:
    done = CliRunner().invoke(app, [*ON_GPUS, "--gpus", "64", "--plot", "/nonexistent/a.svg"])
    assert done.exit_code == 1
    assert "--plot /nonexistent/a.svg: No such file" in done.output


def test_what_is_planned_is_what_a_worker_allocates(tmp_path: Path) -> None:
    """Weights and pages of a checkpoint, to the byte."""
    path = make_checkpoint(tmp_path / "model", UNEVEN)
    loaded = open_model(AttentionSettings(model=path, dtype="float32", kv_pages=3)).load()
    config, drafts, name = config_of(str(path))
    shape = shape_of(config, Sizes.of(name, config, drafts))
    serving = Serving(dense_dtype="fp32", expert_dtype="fp32", kv_dtype="fp32")
    memory = on_device(shape, serving, 1e9, held=0)
    assert KvCache(loaded.model, 3, PAGE_TOKENS, 4, loaded.limits.max_model_len).bytes == 3 * memory.page_bytes
    tensors = sum(math.prod(shape) for _, shape in attention_tensors(config))
    assert memory.dense_bytes == 4 * tensors


def test_a_family_by_name_is_its_checkpoint() -> None:
    """The published shape beside the counted one: norms and biases are all that the first leaves out."""
    counted = find_shape("flash-chat")
    assert counted.attention == FLASH_CHAT.attention
    assert counted.attention_side_params == pytest.approx(FLASH_CHAT.attention_side_params, rel=1e-3)
    assert counted.draft_params == pytest.approx(FLASH_CHAT.draft_params, rel=1e-3)


def test_a_cluster_beside_its_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(run(*ON_GPUS, "--gpus", "64", "--json"))
    plan = read_plan(path)
    workers = [WorkerRecord(worker_id="router-0", role="router", address="h:1", boot_id="b")]
    for number in range(plan["attention_workers"]):
        workers.append(WorkerRecord(worker_id=f"a-{number}", role="attention", address="h:1", boot_id="b", epoch=1))
    for number in range(plan["expert_workers"] - 1):
        record = WorkerRecord(worker_id=f"e-{number}", role="expert", address="h:1", boot_id="b", epoch=1, loaded=9)
        workers.append(record)
    good = {name: fits for name, _, _, fits in rows(plan, Overview(workers=tuple(workers)))}
    assert good["attention workers"]
    assert not good["expert workers"]
    path.write_text("{}")
    with pytest.raises(BadPlan, match="no plan with separate pools"):
        read_plan(path)
