"""`caracal status` with hundreds of workers: many of one role and state share a row, and the others are seen."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from services.cli.status import render
from services.cli.status_rows import FOLDED, rows
from services.membership.overview import Overview
from services.membership.record import WorkerRecord


def worker(role: str, number: int, **more: object) -> WorkerRecord:
    values = {"worker_id": f"{role}-{number}", "role": role, "address": "a:1", "boot_id": "b", "epoch": 3, **more}
    return WorkerRecord(**values)  # type: ignore[arg-type]  # as a test names them


def experts(count: int) -> list[WorkerRecord]:
    return [worker("expert", number, loaded=224 + number % 2) for number in reversed(range(count))]


def test_brackets_of_an_address_are_shown() -> None:
    console = Console(record=True, width=100, file=StringIO())
    console.print(render(Overview(workers=(worker("expert", 0, metrics_address="[fe80::1]:9000"),)), "here"))
    assert "[fe80::1]:9000" in console.export_text()


def test_few_workers_have_a_row_each() -> None:
    found = rows([*experts(FOLDED - 1), worker("router", 0, metrics_address="h:1")])
    assert [row[0] for row in found] == ["router-0", *(f"expert-{number}" for number in range(FOLDED - 1))]
    assert found[0][-1] == "h:1"


def test_many_share_one_and_others_stand_out() -> None:
    draining = worker("expert", 7, loaded=12, draining=True)
    attention = [
        worker(
            "attention", number, stats={"running": 2.0, "waiting": 1.0, "kv_pages_total": 10.0, "kv_pages_used": number}
        )
        for number in range(10)
    ]
    found = rows([*experts(128)[:-8], draining, *attention, *(worker("router", number) for number in range(3))])
    assert [row[:3] for row in found] == [
        ("router-0", "serving", ""),
        ("router-1", "serving", ""),
        ("router-2", "serving", ""),
        ("10: attention-0 … attention-9", "serving", ""),
        ("expert-7", "draining", "12"),
        ("120: expert-8 … expert-127", "serving", "224–225"),
    ]
    assert found[3][3:5] == ("0–90%", "20+10")


def test_all_of_them_on_request() -> None:
    assert [row[0] for row in rows(experts(100), fold=False)] == [f"expert-{number}" for number in range(100)]
