"""The results of the tests on a cluster: a run of some tests replaces their rows and keeps the others'."""

import json
from pathlib import Path

from k8s.e2e.records import Stalls
from k8s.e2e.report import RESULTS, Report


def _stalls(requests: int) -> Stalls:
    return Stalls(requests=requests, failed=0, p50=1.0, p99=2.0, worst=3.0, worst_first=4.0)


def test_rows_of_several_runs_are_merged(tmp_path: Path) -> None:
    for rows in ({"a": 1, "b": 2}, {"b": 3, "c": 4}):
        report = Report(tmp_path)
        for event, requests in rows.items():
            report.add(event, _stalls(requests), "7 s" * (event == "c"))
        report.write()
    events = json.loads((tmp_path / "k8s-stalls.json").read_text())["events"]
    assert {event: row["requests"] for event, row in events.items()} == {"a": 1, "b": 3, "c": 4}
    table = (tmp_path / "k8s-stalls.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table if line.startswith("| ")][1:] == ["| a", "| b", "| c (7 s)"]


def test_a_run_without_streams_writes_nothing(tmp_path: Path) -> None:
    Report(tmp_path).write()
    assert not list(tmp_path.iterdir())


def test_the_table_has_the_rows_of_the_file() -> None:
    events = json.loads((RESULTS / "k8s-stalls.json").read_text())["events"]
    table = (RESULTS / "k8s-stalls.md").read_text()
    for event, row in events.items():
        what = f"{event} ({row['note']})" if "note" in row else event
        assert f"| {what} | {row['requests']} | {row['failed']} |" in table
    assert all(row["measured"] in table for row in events.values())
