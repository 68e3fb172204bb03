"""The figures in README.md and docs/performance.md: blocks between two markers, made from the result files.

`python -m bench.documents` writes them again; the benchmarks do so after a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.control.text import control_text, soak_text
from bench.expert_workers import WORKERS
from bench.processes import REPO
from bench.report import FORMAT
from bench.throughput import HTTP, LLAMA, STREAMS, TRANSFORMERS

RESULTS, README, PERFORMANCE = "bench/results", "README.md", "docs/performance.md"
MARKED = "<!-- {name}: made by `{command}` -->\n{text}<!-- end of {name} -->\n"
MOST = STREAMS[-1]
TAXED = (8, 32)
HEDGED = "2026-11-30"  # since when late calls to expert workers are sent to another one as well

Figures = Mapping[str, Mapping[str, Any]]  # the rows of cpu.json by key


def update(folder: Path = REPO) -> list[Path]:
    """Writes every block whose result file has the present format; returns the files that changed."""
    changed = []
    for document, name, command, text in blocks(folder):
        path = folder / document
        before = path.read_text()
        after = replace_block(before, name, MARKED.format(name=name, command=command, text=text))
        if after != before:
            path.write_text(after)
            changed.append(path)
    return list(dict.fromkeys(changed))


def replace_block(document: str, name: str, block: str) -> str:
    """The document with another block of that name. Raises ValueError when it has none."""
    marked = re.compile(rf"<!-- {name}: made by `[^`]+` -->\n.*?<!-- end of {name} -->\n", re.DOTALL)
    found, count = marked.subn(lambda _: block, document)
    if count != 1:
        raise ValueError(f"the document has {count} blocks called {name}")
    return found


def blocks(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yields (document, name, command, text) of what the result files can be shown as."""
    results = folder / RESULTS
    cpu = json.loads((results / "cpu.json").read_text())
    if cpu.get("format") == FORMAT:
        figures = {row["key"]: row for row in cpu["rows"] if row["key"]}
        stalls = json.loads((results / "k8s-stalls.json").read_text())
        yield README, "figures", "make bench", readme_table(figures, stalls)
        yield PERFORMANCE, "answers", "make bench", answers(figures, cpu["machine"])
    if (results / "scaling.json").exists():
        scaling = json.loads((results / "scaling.json").read_text())
        yield PERFORMANCE, "scaling", "python -m bench.sweep", scaling_text(scaling)
    if (results / "many_workers.json").exists():
        found = json.loads((results / "many_workers.json").read_text())
        yield PERFORMANCE, "many workers", "python -m bench.many_workers", many_workers_text(found)
    if (results / "control.json").exists():
        yield (
            PERFORMANCE,
            "control",
            "python -m bench.control",
            control_text(json.loads((results / "control.json").read_text())),
        )
    if (results / "control-soak.json").exists():
        soak = json.loads((results / "control-soak.json").read_text())
        yield PERFORMANCE, "control soak", "python -m bench.control.soak", soak_text(soak)
    if (results / "placement.json").exists():
        placement = json.loads((results / "placement.json").read_text())
        yield PERFORMANCE, "placement", "python -m bench.placement", placement_text(placement)
    if (results / "straggler.json").exists():
        straggler = json.loads((results / "straggler.json").read_text())
        yield PERFORMANCE, "straggler", "python -m bench.placement.straggler", straggler_text(straggler)


def readme_table(figures: Figures, stalls: Mapping[str, Any]) -> str:
    """README's four rows."""
    event = stalls["events"]["expert pod deleted"]
    failed = "none failed, no bit changed" if not event["failed"] else f"{event['failed']} failed"
    rows = [
        (f"{MOST} streams, tokens per second over HTTP", _against_baselines(figures)),
        ("inter-token latency of the cluster over that of one process", _each(figures, "tax/one", TAXED, " times")),
        (
            "bytes of expert replies over those if every choice were an FFN expert",
            f"{_value(figures, 'wire'):.3g}, {'exactly' if figures['wire']['met'] else 'not'} the share of FFN experts",
        ),
        (
            f"an expert pod deleted under 10 streams, on a real Kubernetes, {_date_of(event)}",
            f"{event['requests']} requests, {failed}; longest pause {event['worst']:.0f} ms "
            f"([other events]({RESULTS}/k8s-stalls.md))",
        ),
    ]
    return _table(("", ""), rows)


def _date_of(event: Mapping[str, Any]) -> str:
    """When it was measured, and whether that was before calls to expert workers were hedged."""
    date = str(event["measured"])
    return date if date >= HEDGED else f"{date}, before late calls were hedged"


def answers(figures: Figures, machine: Mapping[str, Any]) -> str:
    """The short answers of docs/performance.md."""
    rows = [
        (f"As fast as {LLAMA}, over HTTP and with separate processes? After the first token", _ratio(figures, LLAMA)),
        (f"As fast as `{TRANSFORMERS}`? After the first token", _ratio(figures, TRANSFORMERS)),
        (
            "What do separate processes cost? Latency over that of one process",
            _each(figures, "tax/one", TAXED, " times"),
        ),
        (
            f"What do {WORKERS} expert workers on one machine cost, in tokens per second?",
            _each(figures, "workers/lost", TAXED, " %"),
        ),
        ("What does a network cost that is 2 ms slower? Latency", _overlap(figures)),
        ("How near is it to what the machine can do?", _share(figures)),
        (
            f"Where does the CPU go? A step of {MOST} streams",
            ", ".join(
                f"{role.replace('_', ' ')} {_value(figures, f'cpu/{role}/{MOST}'):.2g} ms"
                for role in ("router", "attention_worker", "expert_worker", "client")
            ),
        ),
    ]
    link = f"link {machine['link']}, kernels {machine['kernels']}"
    return f"{machine['cpu']}, {machine['cores']} cores, {link}, {machine['time']}:\n\n" + _table(
        ("question", "answer"), rows
    )


def scaling_text(scaling: Mapping[str, Any]) -> str:
    """The plots, and the first and last point of every axis."""
    rows = []
    for name, points in scaling["axes"].items():
        ends = [f"{point['at']}: {point['inter_token_ms']:.3g} ms" for point in (points[0], points[-1])]
        rows.append((name, *ends))
    return "![Inter-token latency and CPU of a step along each axis](scaling.png)\n\n" + _table(
        ("varies", "inter-token latency at the first point", "at the last one"), rows
    )


def many_workers_text(found: Mapping[str, Any]) -> str:
    """The ratio of the step times, each number of expert workers, and what one more message costs."""
    plan, machine, cost = found["plan"], found["machine"], found["us_per_message"]
    few, many = plan["workers"]
    columns = ("step_ms", "own_ms", "attention_cpu_ms", "expert_cpu_ms", "messages")
    rows = [(name, *(f"{each['median'][column]:.4g}" for column in columns)) for name, each in found["workers"].items()]
    head = (
        "expert workers",
        "step, ms",
        "of it not waited for experts",
        "CPU of attention, ms",
        "CPU of experts, ms",
        "messages",
    )
    goal = f"goal {found['goal']}{'' if found['met'] else ', missed'}"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, kernels {machine['kernels']}, {machine['time']}. "
        f"A step of {plan['streams']} streams takes {found['ratio']:.3f} times as long over {many} expert workers as "
        f"over {few} ({goal}):\n\n{_table(head, rows)}\n"
        f"One more message costs the attention worker {cost['own']:.3g} µs outside its waits; with waits that poll, "
        f"{cost['attention_cpu']:.3g} µs of CPU; and the experts' process {cost['expert_cpu']:.3g} µs of CPU.\n"
    )


def placement_text(found: Mapping[str, Any]) -> str:
    """The plot, and every policy's balancedness, step and loaded experts under every load."""
    plan, call = found["plan"], found["call_ms"]
    by_load = [(workers, skew, its) for workers, skews in found["workers"].items() for skew, its in skews.items()]
    rows = [
        (
            f"{workers} workers, {skew}",
            *(f"{it['balancedness']:.2f}, {it['step']:.2f}, {it['loaded_per_minute']:.0f}" for it in its.values()),
        )
        for workers, skew, its in by_load
    ]
    most = plan["moves"] * found["expert_bytes"] / 1e9
    return (
        f"![A step's time over that of even loads, minute by minute](../{RESULTS}/placement.png)\n\n"
        f"Balancedness, step over even step, experts loaded per minute; from minute {plan['first']} of "
        f"{plan['minutes']} on. By load at most {plan['moves']} experts a minute are loaded, {most:.1f} GB of "
        "LongCat-Flash's in bf16:\n\n"
        + _table(("load", *by_load[0][2]), rows)
        + f"\nA call of the policy for {plan['timed_workers']} workers and two replicas takes {call['median']:.0f} ms, "
        f"at most {call['most']:.0f} ({found['machine']['cpu']}).\n"
    )


def straggler_text(found: Mapping[str, Any]) -> str:
    """The step time and the balancedness of both placements."""
    slow, usual = found["us_per_assignment"][:2]
    rows = [
        (name, f"{found['balancedness'][name]:.2f}", f"{found['step_ms'][name]['median']:.1f}")
        for name in found["step_ms"]
    ]
    return (
        f"{len(found['us_per_assignment'])} workers, one of which takes {slow:g} µs for an assignment and the others "
        f"{usual:g}; {found['streams']} streams, {found['moved']} of {found['layers'] * found['experts']} experts "
        "moved:\n\n" + _table(("placed", "balancedness", "step, ms"), rows)
    )


def _against_baselines(figures: Figures) -> str:
    parts = []
    for baseline in (LLAMA, TRANSFORMERS):
        if row := figures.get(f"ratio/whole/{baseline}/{MOST}"):
            parts.append(f"{row['value']:.2f} times {baseline}{_goal(row)}")
    return f"{_value(figures, f'whole/{HTTP}/{MOST}'):.0f}; " + ", ".join(parts)


def _ratio(figures: Figures, baseline: str) -> str:
    if f"ratio/decode/{baseline}/{MOST}" not in figures:
        return "not measured in this run"
    return _each(figures, f"ratio/decode/{baseline}", STREAMS, " times")


def _each(figures: Figures, key: str, streams: Sequence[int], unit: str) -> str:
    rows = [figures[f"{key}/{count}"] for count in streams]
    return ", ".join(f"{row['value']:.2f}{unit} at {row['column']}{_goal(row)}" for row in rows)


def _overlap(figures: Figures) -> str:
    raised, dense = figures["overlap/raised/1"], _value(figures, "overlap/dense/1")
    return f"+{raised['value']:.1f} %{_goal(raised)}, where a layer's dense path takes {dense:.1f} ms"


def _share(figures: Figures) -> str:
    if f"roofline/share/{MOST}" not in figures:
        return "not measured in this run"
    return _each(figures, "roofline/share", STREAMS, " %")


def _goal(row: Mapping[str, Any]) -> str:
    if not row["goal"]:
        return ""
    return f" (goal {row['goal']}{'' if row['met'] else ', missed'})"


def _value(figures: Figures, key: str) -> float:
    return float(figures[key]["value"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["|" + "".join(f" {cell} |" if cell else " |" for cell in each) for each in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:], ""])


def main() -> None:
    for path in update():
        print(f"{path.relative_to(REPO)} has new figures")


if __name__ == "__main__":
    main()
