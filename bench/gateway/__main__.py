"""`python -m bench.gateway [--streams N ...] [--seconds S] [--out FILE]`: a router between fake workers and one client.

The router has a core of its own; workers and clients share the others. CPU is the router's, of all its threads. The
latency is from the worker's message to the client, of a few streams in the midst of the others, read by a process of
its own: it has the time of a whole step's tokens in it, at the worker as well. After each row a server that only writes
serves as many streams: what sending costs at least on this machine, in this minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench import arguments
from bench.gateway.sent_at import send_times, write_model
from bench.report import machine

TOKENS_PER_S = 20.0  # of each stream: about as fast as people read
STREAMS = (1, 64, 250, 500, 1000)
PROBES = 8  # streams that are timed
A_WORKER = 64  # streams of one attention worker
SECONDS, WARM_S = 10.0, 2.0
OUT = Path(__file__).parents[1] / "results" / "gateway.json"


class Program:
    """A child that speaks in lines; pinned to cores."""

    def __init__(self, module: str, *words: str, cores: Sequence[int]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(self.process.pid, cores)

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a process of the benchmark ended early")
        return line

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measure(model: Path, streams: int, seconds: float) -> dict[str, Any]:
    """A row of the result: the router's, and beside it the CPU of a server that only writes, `bare_us_per_token`."""
    cores = sorted(os.sched_getaffinity(0))
    own, others = cores[:1], cores[1:] or cores
    times = model / "times"
    send_times(times, create=True)
    tokens = str(int((seconds + WARM_S + 60) * TOKENS_PER_S))
    programs: list[Program] = []
    try:
        words = (str(times), str(TOKENS_PER_S), tokens, str(-(-streams // A_WORKER)))
        worker = Program("bench.gateway.fake_worker", *words, cores=others)
        programs.append(worker)
        router = Program("bench.gateway.router", str(model), *worker.line().split(), cores=own)
        programs.append(router)
        row = read_from(router, times, streams, seconds, others)
    finally:
        for program in reversed(programs):
            program.end()
    bare = Program("bench.gateway.bare_server", str(TOKENS_PER_S), str(streams), cores=own)
    try:
        row["bare_us_per_token"] = read_from(bare, times, streams, seconds, others, probes=0)["cpu_us_per_token"]
    finally:
        bare.end()
    return row


def read_from(
    server: Program, times: Path, streams: int, seconds: float, cores: Sequence[int], *, probes: int = PROBES
) -> dict[str, Any]:
    """Reads streams of a server that has not said its URL yet; `probes` of them are timed."""
    url, probes = server.line(), min(streams, probes)
    clients: list[Program] = []
    try:
        for count, role in (
            ((streams - probes) // 2, "load"),
            (probes, "probe"),
            (-(-(streams - probes) // 2), "load"),
        ):
            if count:
                words = (str(times), url, str(count), str(seconds), role)
                clients.append(Program("bench.gateway.client", *words, cores=cores))
                assert clients[-1].line() == "ready"
        time.sleep(WARM_S)
        before, began = cpu_s(server.process.pid), time.monotonic()
        for client in clients:
            client.say("go")
        answers = [json.loads(client.line()) for client in clients]
        used, took = cpu_s(server.process.pid) - before, time.monotonic() - began
    finally:
        for client in reversed(clients):
            client.end()
    return {
        "streams": streams,
        "tokens_per_s": round(sum(one["events"] / one["seconds"] for one in answers)),
        "cpu_us_per_token": round(used / max(1, sum(one["events"] for one in answers)) * 1e6, 1),
        "core_share": round(used / took, 3),
        "ended": sum(one["ended"] for one in answers),
        "added_ms": next((one["added_ms"] for one in answers if one["added_ms"]), {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a router costs a streamed token.")
    parser.add_argument("--streams", type=arguments.number(1, 20_000), nargs="+", default=STREAMS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=arguments.file, default=OUT, help="a JSON file for the figures")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="caracal-gateway-") as name:
        model = write_model(Path(name))
        print(f"{'streams':>8} {'tokens/s':>9} {'us/token':>9} {'bare':>6} {'core':>6}  added ms p50, p99")
        for streams in args.streams:
            row = measure(model, streams, args.seconds)
            rows.append(row)
            added = row["added_ms"]
            cost, least = row["cpu_us_per_token"], row["bare_us_per_token"]
            print(
                f"{streams:>8} {row['tokens_per_s']:>9} {cost:>9} {least:>6} {row['core_share']:>6.1%}"
                f"  {added.get('p50')}, {added.get('p99')}",
                flush=True,
            )
    result = {"machine": machine(), "tokens_per_s_of_a_stream": TOKENS_PER_S, "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
