"""Load beyond capacity, and a light client beside crowds: `python -m bench.overload`.

Capacity is what one process gets with as many requests open as the workers have places. Then two processes send
multiples of it, whether they are answered or not, while others ask for /health, and time rejections. Then a light
client sends one request after the other beside crowds. Each crowd has an address of its own, so that the router can
tell it from the light client. Crowds run at a lower priority than the cluster and who times it, for they share its
cores; `asked_per_s` is what they came to, and `cores` what the cluster's processes took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from bench import arguments
from bench.processes import PATH, Cluster, cluster
from bench.report import machine
from services.local.settings import DEFAULT_MODEL
from services.membership.redis import Membership

OUT = Path(__file__).parents[1] / "results" / "overload.json"
CROWD, LIGHT = ("127.0.0.2", "127.0.0.3"), "127.0.0.1"
TOKENS, LONG = 128, 2000  # of an answer; of one that nobody reads
PLACES = 60
PAUSE_S = 3.0
Answers = dict[str, Any]


class Process:
    """A client in a process of its own."""

    def __init__(self, kind: str, url: str, source: str, tokens: int, amount: float) -> None:
        words = [kind, url, source, str(tokens), str(amount)]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.overload.client", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": PATH},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def end(self) -> Answers:
        """Returns its figures."""
        assert self._child.stdin is not None
        self._child.stdin.write("end\n")
        self._child.stdin.flush()
        found: Answers = json.loads(self._line())
        self._child.stdin.close()
        try:
            self._child.wait(20)
        except subprocess.TimeoutExpired:
            self._child.kill()
        return found


def cpu_s(target: Cluster) -> dict[str, float]:
    """CPU seconds so far, by role."""
    times = {role: [psutil.Process(pid).cpu_times() for pid in pids] for role, pids in target.pids.items()}
    return {role: sum(one.user + one.system for one in each) for role, each in times.items()}


def measured(target: Cluster, crowd: list[Process], seconds: float, tokens: int, *, light: bool) -> Answers:
    """The figures of a crowd that runs already, and of those who time the cluster beside it."""
    watch = [Process("health", target.url, LIGHT, tokens, 1)]
    if light:
        watch.append(Process("light", target.url, LIGHT, tokens, 1))
    else:
        watch.append(Process("refused", target.url, CROWD[0], tokens, 1))
    before = cpu_s(target)
    time.sleep(seconds)
    used = {role: round((now - before[role]) / seconds, 3) for role, now in cpu_s(target).items()}
    health, beside = (process.end() for process in watch)
    ends = [process.end() for process in crowd]
    statuses: Counter[str] = sum((Counter(end["statuses"]) for end in ends), Counter())
    answered = sum(end["statuses"].get("200", 0) / end["seconds"] for end in ends)
    return {
        "goodput_per_s": round(answered + beside["statuses"].get("200", 0) / beside["seconds"], 1),
        "asked_per_s": round(sum(sum(end["statuses"].values()) / end["seconds"] for end in ends), 1),
        "cores": used,
        "statuses": dict(statuses),
        "beside": beside["statuses"],
        "answers_s": beside["answers_s"],
        "rejections_s": beside["rejections_s"],
        "health_s": health["health_s"],
    }


def worker_address(target: Cluster) -> str:
    async def read() -> str:
        membership = Membership(target.redis_url, "caracal")
        try:
            return (await membership.workers("attention"))[0].address
        finally:
            await membership.close()

    return asyncio.run(read())


def scenarios(target: Cluster, seconds: float, multiples: list[float], crowd: float, tokens: int) -> dict[str, Answers]:
    """`crowd`: the size of the crowds, as a share of the issue's: 400 requests, 2000 streams, 3000 calls."""
    found: dict[str, Answers] = {}

    def scenario(name: str, *processes: tuple[str, str, str, int, float], light: bool = False) -> Answers:
        started = [Process(*words) for words in processes]
        time.sleep(min(PAUSE_S, seconds))
        found[name] = measured(target, started, seconds, tokens, light=light)
        print(f"{name:>16}: {json.dumps(found[name])}", flush=True)
        time.sleep(min(PAUSE_S, seconds))
        return found[name]

    scenario("quiet", light=True)
    capacity = scenario("capacity", ("closed", target.url, CROWD[0], tokens, PLACES))["goodput_per_s"]
    for multiple in multiples:
        rate = max(1.0, capacity * multiple / len(CROWD))
        scenario(f"{multiple:g}x", *(("open", target.url, source, tokens, rate) for source in CROWD))
    scenario("open requests", ("closed", target.url, CROWD[0], tokens, max(1, 400 * crowd)), light=True)
    scenario("unread streams", ("unread", target.url, CROWD[0], LONG, max(1, 2000 * crowd)), light=True)
    scenario("direct calls", ("direct", worker_address(target), CROWD[0], 200, max(1, 3000 * crowd)), light=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a cluster beyond its capacity.")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--multiples", type=float, nargs="+", default=[1, 2, 5, 10], help="of the capacity")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of an answer")
    parser.add_argument("--crowd", type=float, default=1.0, help="share of the crowds' sizes")
    parser.add_argument("--out", type=arguments.file, default=OUT, help="a JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="caracal-overload-") as name, cluster(args.model, Path(name)) as target:
        found = scenarios(target, args.seconds, args.multiples, args.crowd, args.tokens)
    result = {"machine": machine(), "model": args.model.name, "tokens": args.tokens, "scenarios": found}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
