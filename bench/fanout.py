"""`python -m bench.fanout [--out FILE]`: what a (layer, worker) message costs an attention worker, by sessions.

Per message of 12 KiB out and 12 KiB back, the caller's CPU time: of a bare C++ epoll loop and of the native fan-out's
core, in the same run against the same server; then of whole links, planning and waiting included, over grpc and
native, against fake workers in one process. Medians. With `--tls` all but the bare loop is encrypted.

Legend: T tokens, W workers.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import torch
from caracal_proto import placement_pb2
from caracal_proto.placements import layer_of

from bench.compiled import REPO, CannotMeasure, build
from bench.fanout_worker import CLUSTER, tls_of
from services.local.certificates import make_certificates
from services.router.dispatch.expert_workers import ExpertWorkerPool
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.moe_handle import MoEHandle, Timeouts
from services.router.dispatch.native_fanout import NativeFanout, NativeOptions
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.send import RoutedBatch, plan_and_send
from services.router.dispatch.stats import LayerStats
from services.security.channels import PLAIN, Dialer
from services.security.identity import ATTENTION

SESSIONS = (1, 4, 16, 64, 128)
HIDDEN = 6144  # 12 KiB a row in bfloat16
MESSAGES = 20_000  # of each measurement of the core; of a link, a tenth
ROUNDS = 3
OPEN_S = 30.0
TRANSPORTS, WAITS = ("tcp", "unix"), ("sleep", "spin")
LINKS = ("grpc", "native")


def build_core(folder: Path) -> Path:
    """Compiles the measuring program. Raises CannotMeasure."""
    core = REPO / "services" / "transport" / "native"
    sources = [source for source in core.glob("*.cpp") if not source.name.startswith("module")]
    return build("fanout", folder, ["-Wno-restrict", f"-I{core}"], sources)


def measure_core(program: Path, sessions: int, messages: int, rounds: int, tls: bool) -> dict[str, Any]:
    """Microseconds of CPU a message and of a step, bare and native, by transport and way of waiting."""
    steps = max(10, messages // sessions)
    found: dict[str, Any] = {}
    for transport in TRANSPORTS:
        for wait in WAITS:
            command = [str(program), str(sessions), str(steps), transport, wait, "encrypted" if tls else "plain"]
            runs = [json.loads(subprocess.check_output(command, timeout=300)) for _ in range(rounds)]
            found[f"{transport} {wait}"] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return found


class Caller:
    """An attention worker's dispatch to W fake workers, each of which gets one row of every layer."""

    def __init__(self, link: str, address: str, sessions: int, dialer: Dialer) -> None:
        self.native = NativeStats()
        dtype = torch.bfloat16
        options = NativeOptions(dtype, dtype, self.native)
        connect = NativeFanout(options, dialer) if link == "native" else partial(GrpcLink, dialer=dialer)
        self._pool = ExpertWorkerPool(connect, 1, sessions)
        ends = [placement_pb2.Endpoint(worker_id=f"fake-{w}", boot_id="b", address=address) for w in range(sessions)]
        layer = layer_of([[w] for w in range(sessions)])
        self._pool.apply(placement_pb2.Table(epoch=1, workers=ends, layers=[layer]))
        h_TD = torch.randn(sessions, HIDDEN).to(dtype)
        ids_TK = torch.arange(sessions, dtype=torch.int32)[:, None]
        ones, positions = torch.ones(sessions, 1), torch.arange(sessions, dtype=torch.int32)
        self._batch = RoutedBatch(0, 1, sessions, positions, h_TD, ids_TK, ones, torch.zeros(sessions))

    def layer(self) -> None:
        """Sends one layer's rows and takes all replies in."""
        table = self._pool.view
        batch, stats = self._batch, LayerStats()
        sent = plan_and_send(self._pool, table, table.layers[0], batch, batch.ids_TK, 30.0)
        MoEHandle(self._pool, batch, sent, Timeouts(30.0, 30.0), stats).wait()

    def close(self) -> None:
        self._pool.close()


def measure_link(link: str, address: str, sessions: int, messages: int, dialer: Dialer) -> dict[str, float]:
    """Microseconds of CPU a message, and of a layer."""
    caller = Caller(link, address, sessions, dialer)
    try:
        deadline = time.monotonic() + OPEN_S
        caller.layer()
        while link == "native" and caller.native.opened < sessions:
            if time.monotonic() > deadline:
                raise CannotMeasure(f"only {caller.native.opened} of {sessions} sessions were opened")
            time.sleep(0.05)
        layers = max(10, messages // sessions)
        for _ in range(5):
            caller.layer()
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(layers):
            caller.layer()
        passed_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    finally:
        caller.close()
    return {"cpu_us": round(1e6 * cpu_s / layers / sessions, 2), "layer_us": round(1e6 * passed_s / layers, 1)}


def measure_links(sessions: int, messages: int, rounds: int, certificates: Path | None) -> dict[str, Any]:
    """The same for every link, interleaved, medians of the rounds; every round has fake workers of its own."""
    dialer = Dialer(tls=tls_of(certificates, ATTENTION)) if certificates else PLAIN
    runs: dict[str, list[dict[str, float]]] = {link: [] for link in LINKS}
    for _ in range(rounds):
        for link in LINKS:
            command = [sys.executable, "-m", "bench.fanout_worker", str(HIDDEN)]
            command += [str(certificates)] if certificates else []
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO
            ) as workers:
                assert workers.stdout
                address = workers.stdout.readline().strip()
                runs[link].append(measure_link(link, address, sessions, messages, dialer))
                workers.kill()
    return {
        link: {key: statistics.median(run[key] for run in found) for key in found[0]} for link, found in runs.items()
    }


def plot(results: dict[str, Any], path: Path) -> None:
    """CPU a message by sessions, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_sessions = results["by_sessions"]
    sessions = [int(each) for each in by_sessions]
    lines = {
        "bare epoll loop, TCP": [each["core"]["tcp sleep"]["bare_cpu_us"] for each in by_sessions.values()],
        "native fan-out, TCP": [each["core"]["tcp sleep"]["fanout_cpu_us"] for each in by_sessions.values()],
        "native link with planning": [each["links"]["native"]["cpu_us"] for each in by_sessions.values()],
        "grpc link with planning": [each["links"]["grpc"]["cpu_us"] for each in by_sessions.values()],
    }
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, values in lines.items():
        axes.loglog(sessions, values, marker="o", label=name)
    axes.set_xticks(sessions, [str(each) for each in sessions])
    axes.set_xlabel("sessions (expert workers)")
    axes.set_ylabel("caller's CPU per message, µs")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    parser.add_argument("--plot", type=Path, help="draw them here")
    parser.add_argument("--sessions", type=int, nargs="+", default=list(SESSIONS))
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tls", action="store_true", help="with encryption")
    options = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    results: dict[str, Any] = {"load_before": os.getloadavg()[0], "body_bytes": 2 * HIDDEN, "tls": options.tls}
    results["by_sessions"] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build_core(Path(folder))
            certificates = Path(folder) / "tls" if options.tls else None
            if certificates:
                make_certificates(certificates, CLUSTER)
            for sessions in options.sessions:
                core = measure_core(program, sessions, options.messages, options.rounds, options.tls)
                links = measure_links(sessions, options.messages // 10, options.rounds, certificates)
                results["by_sessions"][str(sessions)] = {"core": core, "links": links}
                tcp = core["tcp sleep"]
                print(
                    f"{sessions:4} sessions, CPU a message: bare {tcp['bare_cpu_us']:.1f} µs, native core "
                    f"{tcp['fanout_cpu_us']:.1f}, native link {links['native']['cpu_us']:.0f}, "
                    f"grpc link {links['grpc']['cpu_us']:.0f}",
                    flush=True,
                )
        except CannotMeasure as error:
            sys.exit(str(error))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
