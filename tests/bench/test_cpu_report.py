"""The rows of `caracal bench`, the tables made of them, and the figures that README and docs/performance.md show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench import documents, expert_workers, overlap, roofline, throughput
from bench.contenders import Contender, Speed, take_turns
from bench.processes import REPO
from bench.report import markdown, write
from bench.roofline import Peaks, Work, peaks_of, step_work
from bench.row import Row, goal_of, value_of
from bench.throughput import HTTP, IN_PROCESS, IN_PROCESS_ALL, LLAMA, STREAMS, TRANSFORMERS
from services.checkpoint.config import ModelConfig

CONFIG = REPO / "bench" / "config" / "bench-90m.json"
DECODE = {HTTP: 1000.0, IN_PROCESS: 1100.0, IN_PROCESS_ALL: 1250.0, LLAMA: 800.0, TRANSFORMERS: 300.0}
PEAK = {"plain_bytes_s": 2e10, "huge_bytes_s": 3e10, "flops_s": 4e11}
MACHINE = {"instructions": "bf16 dot products", "one": PEAK, "all": PEAK}


def rows() -> list[Row]:
    speeds = {streams: {name: Speed(0.9 * each, each) for name, each in DECODE.items()} for streams in STREAMS}
    turns = {streams: {name: [speed] for name, speed in by_name.items()} for streams, by_name in speeds.items()}
    found = throughput.speed_rows(speeds, turns) + throughput.ratio_rows(speeds) + throughput.tax_rows(speeds)
    for streams in (8, 32):
        found += expert_workers.rows({"1": [Speed(1000, 1)], "4": [Speed(950, 1)]}, streams)
    latencies = {overlap.DIRECT: [9.0], overlap.PLAIN: [10.0], overlap.DELAYED: [10.4], overlap.EXPOSED: [16.0]}
    calls = {name: [(0.0005, 0.0035)] for name in latencies}
    found += overlap.rows_of(latencies, calls, 1)
    config = ModelConfig.from_dict(json.loads(CONFIG.read_text()))
    found += roofline.rows_of_machine(MACHINE) + roofline.rows_of_model(
        config, MACHINE, 64, dict.fromkeys(STREAMS, 1e3)
    )
    found += [
        Row(role, 1.0, "ms", section="CPU", column="32 streams", key=f"cpu/{role}/32")
        for role in ("router", "attention_worker", "expert_worker", "client")
    ]
    return [*found, Row("wire", 0.596, "", "= FFN share", True, section="Wire", key="wire")]


def test_ratios_and_goals() -> None:
    found = rows()
    assert value_of(found, f"ratio/decode/{LLAMA}/8") == pytest.approx(1.25)
    met = {row.key: row.met for row in found}
    assert met[f"ratio/decode/{LLAMA}/1"]
    assert met[f"ratio/decode/{LLAMA}/8"] is False
    assert met[f"ratio/decode/{TRANSFORMERS}/8"] is None
    assert value_of(found, "tax/one/8") == pytest.approx(1.1)
    assert met["tax/one/8"]
    assert met["tax/one/32"]
    assert met["tax/all/8"] is None
    assert value_of(found, "workers/lost/8") == pytest.approx(5)
    assert met["workers/lost/8"]


def test_a_goal_has_a_direction() -> None:
    assert goal_of(1.15, "≤ 1.15")
    assert not goal_of(1.16, "≤ 1.15")
    assert goal_of(1.0, "≥ 1.0")
    assert not goal_of(0.99, "≥ 1.0")


def test_the_overlap_goal_holds_only_under_a_long_dense_path() -> None:
    found = rows()
    assert value_of(found, "overlap/dense/1") == pytest.approx(3)
    assert value_of(found, "overlap/raised/1") == pytest.approx(4)
    latencies = {overlap.DIRECT: [1.0], overlap.PLAIN: [1.0], overlap.DELAYED: [3.0], overlap.EXPOSED: [3.0]}
    short = overlap.rows_of(latencies, {name: [(0.002, 0.003)] for name in latencies}, 1)
    assert [row.met for row in short if row.key == "overlap/raised/1"] == [None]


def test_the_table_of_streams_has_a_column_for_each() -> None:
    table = markdown(rows(), {"link": "native"})
    assert "| | 1 stream | 8 streams | 32 streams |" in table
    assert f"| {HTTP} | 1000 | 1000 | 1000 |" in table
    assert f"| ÷ {LLAMA}, after the first token, × | 1.25 (≥ 1.0 met) | 1.25 (≥ 1.3 **missed**) |" in table
    assert "\nlink: native\n" in table


def test_contenders_take_turns_in_another_order_each_round() -> None:
    seen: list[str] = []

    def contender(name: str) -> Contender:
        def measure(batch: list[list[int]]) -> Speed:
            seen.append(name)
            return Speed(len(batch), 1)

        return measure

    found = take_turns({name: contender(name) for name in "abc"}, [[1], [2]], 3)
    assert seen == list("abcbcacab")
    assert found["a"] == [Speed(2, 1)] * 3


def test_a_steps_work_and_the_ceiling() -> None:
    config = ModelConfig.from_dict(json.loads(CONFIG.read_text()))
    one, many = (step_work(config, streams, 64) for streams in (1, 1000))
    expert = 3 * 512 * 256
    assert many.flops == pytest.approx(1000 * one.flops)
    # One token reads the experts that it chose, 4 on average; a thousand read all 32.
    cache = 2 * 4 * 80 * 2 * 64
    assert many.bytes - one.bytes == pytest.approx(4 * (32 - 4) * expert * 2 + 999 * cache)
    peaks = peaks_of(MACHINE)
    assert peaks == Peaks(3e10, 4e11)
    assert peaks.seconds(Work(3e10, 4e10)) == 1
    assert peaks.seconds(Work(3e9, 8e11)) == 2


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """README, docs/performance.md and the results of this checkout, with a run of this benchmark among them."""
    for name in (documents.README, documents.PERFORMANCE, f"{documents.RESULTS}/k8s-stalls.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    write(rows(), tmp_path / documents.RESULTS, "cpu", {"link": "native"})
    point = {"at": 1, "inter_token_ms": 2.0}
    (tmp_path / documents.RESULTS / "scaling.json").write_text(json.dumps({"axes": {"layers": [point, point]}}))
    return tmp_path


def test_a_run_changes_only_the_blocks_of_figures(tree: Path) -> None:
    names = {documents.README: ["figures"], documents.PERFORMANCE: ["answers", "scaling"]}
    before = {name: (tree / name).read_text() for name in names}
    assert documents.update(tree) == [tree / documents.README, tree / documents.PERFORMANCE]
    for document, blocks in names.items():
        after = (tree / document).read_text()
        for name in blocks:
            before[document], after = (documents.replace_block(text, name, "") for text in (before[document], after))
        assert after == before[document]
    assert documents.update(tree) == []


def test_readme_has_four_rows(tree: Path) -> None:
    documents.update(tree)
    block = (tree / documents.README).read_text().split("<!-- figures: made by `make bench` -->\n")[1]
    lines = block.split("<!-- end of figures -->")[0].splitlines()
    assert lines[:2] == ["| | |", "|---|---|"]
    assert len(lines) == 6
    assert lines[2] == (
        "| 32 streams, tokens per second over HTTP | 900; 1.25 times llama.cpp (goal ≥ 1.3, missed), "
        "3.33 times transformers.generate (goal ≥ 4, missed) |"
    )
    assert "1.10 times at 8 streams (goal ≤ 1.15), 1.10 times at 32 streams (goal ≤ 1.10)" in lines[3]
    assert "exactly the share of FFN experts" in lines[4]
    assert "none failed, no bit changed" in lines[5]


def test_without_llama_cpp_its_rows_are_missing_and_the_document_says_so(tree: Path) -> None:
    write([row for row in rows() if LLAMA not in row.key], tree / documents.RESULTS, "cpu", {"link": "grpc"})
    documents.update(tree)
    assert "llama.cpp" not in (tree / documents.README).read_text().split("<!-- figures")[1].split("<!-- end")[0]
    assert "not measured in this run" in (tree / documents.PERFORMANCE).read_text()


def test_a_document_without_the_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 blocks called figures"):
        documents.replace_block("no markers", "figures", "")


def test_the_documents_show_the_results_that_are_committed() -> None:
    """A result file of the present form and a document that was not written after it do not land together."""
    for document, name, command, text in documents.blocks(REPO):
        block = documents.MARKED.format(name=name, command=command, text=text)
        assert block in (REPO / document).read_text(), f"{document}: run `python -m bench.documents`"
