"""The documents of the simulator and the planner show what result files say, or that there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.planner.machine_table import machine_table
from bench.simulator import document
from bench.studies import document as studies
from bench.studies.findings import BEFORE, text_of

MACHINE = {"cpu": "CPU", "cores": 2, "time": "2026-12-01T10:00:00Z"}
SIDE = {"goodput": 2.0, "itl_p99": 0.01, "ttft_p99": 0.1, "longest_stall": 0.2}


def write(folder: Path, name: str, found: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps({"machine": MACHINE} | found), encoding="utf-8")


@pytest.mark.parametrize("made", [document, studies])
def test_the_documents_are_up_to_date(made: Any) -> None:
    text = made.DOCUMENT.read_text(encoding="utf-8")
    assert made.filled(text) == text, "make it anew: python -m bench.simulator, python -m bench.studies"


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    assert "Not measured yet" in document.validation(tmp_path)
    assert "Not measured yet" in document.speed(tmp_path)
    assert "Not measured yet" in machine_table(tmp_path / "planner.json")
    text = document.DOCUMENT.read_text(encoding="utf-8")
    assert document.filled(text, tmp_path).count("Not measured yet") == 2
    with pytest.raises(ValueError, match="no marks of validation"):
        document.filled("nothing", tmp_path)


def test_a_validation_shows_both_sides_and_what_was_missed(tmp_path: Path) -> None:
    met = {"goodput": True, "itl_p99": False, "ttft_p99": True, "stall": True}
    row = {
        "schedule": "attention death",
        "attention_workers": 2,
        "expert_workers": 2,
        "replicas": 2,
        "measured": SIDE,
        "simulated": SIDE | {"itl_p99": 0.02},
        "off": {"goodput": 0.0, "itl_p99": 1.0, "ttft_p99": 0.0, "stall_s": 0.0},
        "met": met,
    }
    write(tmp_path, "simulator.json", {"rows": [row]})
    text = document.validation(tmp_path)
    assert "| attention death | 2, 2 (2 of each expert) | 2, 2 (+0 %) | 10, 20 (+100 %, **missed**) |" in text
    assert "3 of 4 goals are met" in text
    assert "CPU, 2 cores, 2026-12-01." in text


def test_speeds_come_from_each_file_that_there_is(tmp_path: Path) -> None:
    found = {"virtual_s": 60.0, "requests": 10, "steps": 2_000_000, "cpu_s": 3.0, "wall_s": 4.0, "peak_rss_bytes": 5e6}
    write(tmp_path, "simulator-speed.json", found)
    assert "before detectors" in document.speed(tmp_path)
    write(tmp_path, "simulator-speed.json", found | {"upgraded": 7})
    write(tmp_path, "simulator-conversations.json", found | {"upgraded": 7, "prefix_queries": 10, "prefix_hits": 8})
    text = document.speed(tmp_path)
    assert "before detectors" not in text
    assert "| 60 | 10 | 2 million | 7 | 80 % | 3, 4 | 5 | CPU, 2 cores, 2026-12-01. |" in text
    assert len(text.splitlines()) == 4


def test_the_planners_table_of_a_machine(tmp_path: Path) -> None:
    row = {
        "model": "real",
        "expert_workers": 2,
        "replicas": 2,
        "streams": 8,
        "itl_ms": 20.0,
        "predicted_itl_ms": 22.0,
        "tokens_per_s": 400.0,
        "predicted_tokens_per_s": 364.0,
        "error_percent": 10.0,
    }
    write(tmp_path, "planner.json", {"goal_percent": 15.0, "rows": [row, row | {"error_percent": -20.0}]})
    text = machine_table(tmp_path / "planner.json")
    assert "| real | 2 | 2 | 8 | 20 | 22 | 400 | 364 | +10 % |" in text
    assert "Within the goal of 15 %: 1 of 2; root of the mean square 16 %." in text


def test_what_studies_say_has_the_day_of_their_figures() -> None:
    found = {"even_step_ms": 10.0, "rows": [{"skew": 0.4, "extra": extra, "gb": extra, "step_ms": ms, }
                                            for extra, ms in ((0, 12.0), (4, 11.0), (16, 10.95))]}  # fmt: skip
    text = text_of("replicas", found)
    assert "a step takes 12.0 ms, 1.20 times as long as where choices are even; 4 more in a layer" in text
    assert BEFORE in text
    assert text_of("replicas", found | {"made": "2026-12-01"}).endswith("Made on 2026-12-01.\n")
