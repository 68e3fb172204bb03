"""`python -m bench.simulator.validate`: four schedules on real clusters of this machine, and in the simulator.

Costs are those of `caracal plan --calibrate`; the time of a request outside workers is that of one request alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.arguments import file, number
from bench.checkpoints import console
from bench.cluster_settings import PREFIX_CACHE, ClusterSettings
from bench.main import RESULTS
from bench.planner.calibrate import calibrate
from bench.planner.points import VALIDATION, Model, short
from bench.processes import cluster
from bench.report import machine
from bench.simulator import real, virtual
from bench.simulator.schedules import LENGTHS, Schedule, schedules
from bench.whole_cluster import wait_for_workers
from services.cli.plan import Sizes
from services.cli.planning.models import shape_of
from services.cli.planning.profiles import device, link
from services.planner.device import Device, Link
from services.planner.one_machine import Point, step
from services.planner.shape import Shape
from services.simulator.generation import Generation
from services.simulator.outcomes import Summary

EXPERTS, SECONDS, SEED, IDLE_TURNS = 2, 60.0, 1, 20
LOAD = 0.5  # of the tokens per second of a step with MANY streams
MANY = 16
GOALS = {"goodput": 0.10, "itl_p99": 0.25, "ttft_p99": 0.25}  # shares that the simulator may be off by
STALL_GOAL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    model: Model
    seconds: float = SECONDS
    rate: float = 0.0  # requests per second; 0: LOAD of what the planner says the cluster can do


def run(plan: Plan, profile: Path, directory: Path) -> list[dict[str, Any]]:
    """Plays every schedule on a cluster of its own, then in the simulator."""
    checkpoint = plan.model.checkpoint()
    shape = shape_of(checkpoint.config, Sizes.of(plan.model.name, checkpoint.config))
    one, wire = device("cpu", profile), link("loopback", profile)
    replicas = ClusterSettings.of(checkpoint.path, EXPERTS).replicas
    point = Point(shape, MANY, EXPERTS, LENGTHS.prompt.mean + LENGTHS.answer.mean / 2, replicas)
    rate = plan.rate or LOAD * MANY / step(point, one, wire).seconds / (LENGTHS.prompt.mean + LENGTHS.answer.mean)
    rows = []
    for schedule in schedules(rate, plan.seconds):
        console.print(f"{schedule.name}: {schedule.phases[0].rate:.3g} requests a second")
        requests = schedule.requests(SEED)
        folder = directory / schedule.name.replace(" ", "-")
        settings = ClusterSettings.of(checkpoint.path, EXPERTS, schedule.attention)
        attention = schedule.attention
        with cluster(
            checkpoint.path, folder, attention=attention, experts=EXPERTS, CARACAL_PREFIX_CACHE=PREFIX_CACHE
        ) as target:
            wait_for_workers(target, attention, EXPERTS)
            prompt = int(LENGTHS.prompt.median)
            idle_s = real.idle_ttft_s(target, prompt, checkpoint.config.vocab_size, IDLE_TURNS)
            itl = real.play(target, schedule, requests, checkpoint.config.vocab_size)
        measured = Summary.of(requests, itl, schedule.seconds, virtual.SLO)
        simulated = simulate(schedule, requests, Costs(shape, one, wire, settings), prompt, idle_s)
        rows.append(compare(schedule, settings, measured, simulated))
    return rows


@dataclass(frozen=True, slots=True)
class Costs:
    """What a simulated cluster of this machine is made of."""

    shape: Shape
    device: Device
    link: Link
    settings: ClusterSettings


def simulate(schedule: Schedule, requests: Sequence[Generation], costs: Costs, prompt: int, idle_s: float) -> Summary:
    """`idle_s`: the time to the first token of one request of `prompt` tokens alone, as it was measured."""
    workers, first = (schedule.attention, EXPERTS), [prompt] * IDLE_TURNS
    shaped = virtual.deployment(costs.shape, costs.device, costs.link, costs.settings, workers, 0.0)
    alone = [Generation(0, 0.0, prompt, 2, "caller")]
    first_s = virtual.simulate(shaped, replace(schedule, dies=""), alone, first).ttft_p50
    edge = replace(shaped.timing, edge_s=max(0.0, idle_s - first_s))
    return virtual.simulate(replace(shaped, timing=edge), schedule, requests, first)


def compare(schedule: Schedule, settings: ClusterSettings, measured: Summary, simulated: Summary) -> dict[str, Any]:
    """Both, and whether the simulator is as near as it is to be."""
    off = {key: getattr(simulated, key) / getattr(measured, key) - 1 for key in GOALS}
    stall_s = simulated.longest_stall - measured.longest_stall
    met = {key: abs(off[key]) <= goal for key, goal in GOALS.items()} | {"stall": abs(stall_s) <= STALL_GOAL_S}
    return {
        "schedule": schedule.name,
        "attention_workers": schedule.attention,
        "expert_workers": EXPERTS,
        "replicas": settings.replicas,
        "measured": asdict(measured),
        "simulated": asdict(simulated),
        "off": off | {"stall_s": stall_s},
        "met": met,
    }


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each schedule."""
    said = []
    for row in rows:
        one, other, off = row["measured"], row["simulated"], row["off"]
        said.append(
            f"{row['schedule']}: goodput {one['goodput']:.3g} and {other['goodput']:.3g} a second "
            f"({100 * off['goodput']:+.0f} %), ITL p99 {1e3 * one['itl_p99']:.3g} and {1e3 * other['itl_p99']:.3g} ms "
            f"({100 * off['itl_p99']:+.0f} %), TTFT p99 {1e3 * one['ttft_p99']:.3g} and "
            f"{1e3 * other['ttft_p99']:.3g} ms ({100 * off['ttft_p99']:+.0f} %), longest stall "
            f"{1e3 * one['longest_stall']:.0f} and {1e3 * other['longest_stall']:.0f} ms"
        )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulator.validate", description=__doc__)
    parser.add_argument("--profile", type=Path, help="of `caracal plan --calibrate`; made first without it")
    parser.add_argument("--seconds", type=number(5), default=int(SECONDS), help="of each schedule")
    parser.add_argument("--out", type=file, default=RESULTS / "simulator.json", help="where the result goes")
    parser.add_argument("--smoke", action="store_true", help="a few requests: the figures mean nothing")
    given = parser.parse_args()
    model = (short(VALIDATION) if given.smoke else VALIDATION)[0]
    plan = Plan(model=model, seconds=5.0, rate=2.0) if given.smoke else Plan(model=model, seconds=given.seconds)
    with tempfile.TemporaryDirectory(prefix="caracal-simulator-") as folder:
        profile = given.profile or Path(folder, "profile.toml")
        if given.profile is None:
            calibrate(profile, smoke=given.smoke)
        rows = run(plan, profile, Path(folder))
        text = profile.read_text(encoding="utf-8")
    print("\n".join(lines(rows)))
    found = {"machine": machine(), "plan": {"seconds": plan.seconds}, "goals": GOALS | {"stall_s": STALL_GOAL_S}}
    given.out.write_text(json.dumps(found | {"profile": text, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
