"""Benchmarks that docs name, each in a tiny form."""

from __future__ import annotations

import json
import re

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes
PLACEMENTS = ("by load", "EPLB")


def test_bench(shell: Shell) -> None:
    """On tiny models and without llama.cpp where it is not installed: CI does not compile it."""
    output = shell.run("make", "bench", "BENCH=--smoke")
    for section in (
        "with prompts",
        "Distribution tax",
        "CPU time of a decode step",
        "Expert workers",
        "Overlap",
        "Memory",
    ):
        assert re.search(rf"^## .*{section}", output, re.M), section
    assert re.search(r"^\| Caracal over HTTP \| \d", output, re.M)
    assert re.search(r"^\| ceiling, tokens/s \| \d", output, re.M)
    assert re.search(r"^llama.cpp: \S", output, re.M)


def test_bench_sweep(shell: Shell) -> None:
    out, picture = shell.folder / "build", shell.folder / "build" / "scaling.png"
    out.mkdir(exist_ok=True)
    shell.run("python", "-m", "bench.sweep", "--smoke", "--out", str(out), "--plot", str(picture))
    axes = json.loads((out / "scaling.json").read_text())["axes"]
    assert [point["at"] for point in axes["expert workers"]] == [1, 2]
    assert all(point["inter_token_ms"] > 0 for points in axes.values() for point in points)
    assert picture.exists()


def test_bench_documents(shell: Shell) -> None:
    """The documents of this checkout show its results already."""
    assert not shell.run("python", "-m", "bench.documents")


def test_planner_document(shell: Shell) -> None:
    """The document of this checkout shows what the planner says."""
    assert not shell.run("python", "-m", "bench.planner")


def test_calibration_and_its_validation(shell: Shell) -> None:
    """With few streams once; `caracal plan --calibrate` calls the same function with three turns of all."""
    out = shell.folder / "build" / "planner.json"
    out.parent.mkdir(exist_ok=True)
    printed = shell.run("python", "-m", "bench.planner.validate", "--smoke", "--out", str(out))
    assert "bench-90m, 1 expert worker(s), 2 streams" in printed
    found = json.loads(out.read_text())
    assert {row["model"] for row in found["rows"]} == {"bench-90m"}
    assert all(row["itl_ms"] > 0 and row["predicted_itl_ms"] > 0 for row in found["rows"])
    profile = shell.folder / "build" / "profile.toml"
    profile.write_text(found["profile"])
    few = ("--gpus", "2", "--prompt", "100", "--answer", "50", "--profile", str(profile))
    assert "tokens/s per user" in shell.run("caracal", "plan", "models/caracal-tiny", "--gpu", "cpu", *few)


def test_simulator_beside_a_cluster(shell: Shell) -> None:
    """A few requests on each of four small clusters; the factors are those of a few streams."""
    out = shell.folder / "build" / "simulator.json"
    out.parent.mkdir(exist_ok=True)
    printed = shell.run("python", "-m", "bench.simulator.validate", "--smoke", "--out", str(out))
    assert "expert death: goodput" in printed
    found = json.loads(out.read_text())
    assert [row["schedule"] for row in found["rows"]] == ["steady", "flash crowd", "expert death", "attention death"]
    assert all(row[side]["ends"] == {"finished": row["measured"]["requests"]} for row in found["rows"]
               for side in ("measured", "simulated"))  # fmt: skip


def test_simulator_documents(shell: Shell) -> None:
    """The documents of this checkout have the tables of its results."""
    assert not shell.run("python", "-m", "bench.simulator")
    assert not shell.run("python", "-m", "bench.studies")


def test_simulator_and_its_studies(shell: Shell) -> None:
    """A few seconds of the hour, and a tiny part of each study."""
    out = shell.folder / "build" / "studies"
    speed = str(out / "speed.json")
    printed = shell.run("python", "-m", "bench.simulator.speed", "--seconds", "5", "--rate", "2", "--out", speed)
    assert "goal 300 for an hour" in printed
    shell.run("python", "-m", "bench.studies", "--run", "--smoke", "--out", str(out))  # each by its own command
    for name in ("replicas", "ratio", "dead_pod", "autoscaling", "growth"):
        found = json.loads((out / f"{name}.json").read_text())
        assert found["rows"]
        assert "prediction" in found["what"]
        assert (out / f"{name}.png").stat().st_size > 1000


def test_bench_of_kernels(shell: Shell) -> None:
    output = shell.run("python", "-m", "bench.kernels")
    assert "attention side,  8 rows" in output


def test_bench_of_long_contexts(shell: Shell) -> None:
    output = shell.run("python", "-m", "bench.long_context", "--smoke")
    assert re.search(r"equal tokens \| 16 of 16 \| = 16 \| met", output)
    assert re.search(r"chunks by cost: ITL p99 \| [0-9.]+ ms", output)


def test_bench_of_sparse_attention(shell: Shell) -> None:
    out = shell.folder / "build" / "sparse.json"
    out.parent.mkdir(exist_ok=True)
    printed = shell.run(
        "python", "-m", "bench.sparse_attention", "--longest", "2048", "--rounds", "1", "--out", str(out)
    )
    assert len(printed.splitlines()) == 4
    assert set(json.loads(out.read_text())["us_per_row"]["sparse"]) == {"1024", "2048"}


def test_bench_of_the_prefix_cache(shell: Shell) -> None:
    output = shell.run("python", "-m", "bench.prefix_cache", "--smoke")
    shares = re.findall(r"cached ÷ what could be, % \| ([0-9.]+) \| 0 \|", output)
    assert len(shares) == 2
    assert all(float(share) > 50 for share in shares)


def test_bench_of_migration(shell: Shell) -> None:
    output = shell.run("python", "-m", "bench.migration", "--smoke")
    stalls = re.search(r"longest stall, worst, s \| ([0-9.]+) \| ([0-9.]+) \|", output)
    assert stalls is not None
    assert all(0 < float(seconds) < 60 for seconds in stalls.groups())


def test_bench_of_fp8_weights(shell: Shell) -> None:
    out = shell.folder / "build" / "fp8.json"
    out.parent.mkdir(exist_ok=True)
    printed = shell.run("python", "-m", "bench.fp8_weights", "--mib", "1", "--rounds", "1", "--out", str(out))
    assert len(printed.splitlines()) == 3
    found = json.loads(out.read_text())
    assert 1.9 < found["bytes_of_a_matrix"]["bf16"] / found["bytes_of_a_matrix"]["fp8"] < 2
    assert all(form["ms"] > 0 for rows in found["by_rows"].values() for form in rows.values())


def test_bench_of_http_clients(shell: Shell) -> None:
    out = shell.folder / "build" / "http.json"
    out.parent.mkdir(exist_ok=True)
    few = ("--streams", "4", "--events", "5", "--rounds", "1", "--out", str(out))
    assert "aiohttp: cpu_us_per_event" in shell.run("python", "-m", "bench.http_clients", *few)
    assert json.loads(out.read_text())["medians"]["httpx2"]["cpu_us_per_event"] > 0


def test_bench_of_fanout(shell: Shell) -> None:
    out, picture = shell.folder / "build" / "fanout.json", shell.folder / "build" / "fanout.png"
    out.parent.mkdir(exist_ok=True)
    few = ("--sessions", "2", "--messages", "400", "--rounds", "1")
    assert "grpc link" in shell.run("python", "-m", "bench.fanout", *few, "--out", str(out), "--plot", str(picture))
    cost = json.loads(out.read_text())["by_sessions"]["2"]
    assert cost["core"]["tcp sleep"]["bare_cpu_us"] > 0
    assert 0 < cost["links"]["native"]["cpu_us"] < cost["links"]["grpc"]["cpu_us"]
    assert picture.exists()
    assert "grpc link" in shell.run("python", "-m", "bench.fanout", *few, "--tls", "--out", str(out))
    encrypted = json.loads(out.read_text())
    assert encrypted["tls"]
    assert encrypted["by_sessions"]["2"]["links"]["native"]["cpu_us"] > 0


def test_bench_of_many_workers(shell: Shell) -> None:
    out = shell.folder / "build" / "many"
    printed = shell.run("python", "-m", "bench.many_workers", "--smoke", "--out", str(out))
    assert re.search(r"^\| 8 \| [0-9.]+ \|", printed, re.M)
    few, many = json.loads((out / "many_workers.json").read_text())["workers"].values()
    assert 0 < few["median"]["messages"] < many["median"]["messages"]
    assert few["median"]["own_ms"] > 0  # a mean beside the median of the step: a slow step lifts it above
    assert few["median"]["step_ms"] > 0


def test_bench_of_the_control_plane(shell: Shell) -> None:
    out = shell.folder / "build" / "control"
    printed = shell.run("python", "-m", "bench.control", "--smoke", "--out", str(out))
    assert "from the start to ready, s" in printed
    found = json.loads((out / "control.json").read_text())
    assert [size["experts"] for size in found["by_size"]] == [4, 6]
    assert all(size["join"]["bytes"] > 0 for size in found["by_size"])
    assert (out / "control.png").exists()


def test_soak_of_the_control_plane(shell: Shell) -> None:
    out = shell.folder / "build" / "soak"
    assert "keys in Redis" in shell.run("python", "-m", "bench.control.soak", "--smoke", "--out", str(out))
    found = json.loads((out / "control-soak.json").read_text())
    assert found["epoch"] > 2
    for router in found["after"].values():
        assert router["redis_keys"] < 60, "the leases of workers that have left are gone"
        assert router["tasks"] < 100


def test_bench_of_placement(shell: Shell) -> None:
    out = shell.folder / "build" / "placement"
    printed = shell.run("python", "-m", "bench.placement", "--smoke", "--out", str(out))
    assert "8 workers, flash crowd, EPLB: balancedness 0." in printed
    by_load, eplb = (json.loads((out / "placement.json").read_text())["workers"]["8"]["Zipf"][p] for p in PLACEMENTS)
    assert by_load["loaded"] < eplb["loaded"]
    assert (out / "placement.png").exists()
    counts = out / "recorded.json"
    shell.run("python", "-m", "bench.placement.recorded", "--minutes", "2", "--out", str(counts))
    first, second = json.loads(counts.read_text())["counts"]
    assert first != second
    shell.run("python", "-m", "bench.placement.straggler", "--smoke", "--out", str(out))
    assert json.loads((out / "straggler.json").read_text())["moved"] > 0


def test_bench_of_the_gateway(shell: Shell) -> None:
    out = shell.folder / "build" / "gateway.json"
    out.parent.mkdir(exist_ok=True)
    shell.run("python", "-m", "bench.gateway", "--streams", "1", "40", "--seconds", "1", "--out", str(out))
    one, many = json.loads(out.read_text())["rows"]
    assert many["tokens_per_s"] > 4 * one["tokens_per_s"] > 0
    assert many["cpu_us_per_token"] > 0
    assert many["added_ms"]["p50"] > 0


def test_bench_of_overload(shell: Shell) -> None:
    out = shell.folder / "build" / "overload.json"
    out.parent.mkdir(exist_ok=True)
    few = ("--seconds", "1", "--multiples", "2", "--crowd", "0.01")
    shell.run("python", "-m", "bench.overload", *few, "--out", str(out))
    scenarios = json.loads(out.read_text())["scenarios"]
    assert scenarios["quiet"]["beside"]["200"] > 0
    assert scenarios["2x"]["goodput_per_s"] > 0
    assert not any("500" in one["statuses"] for one in scenarios.values())


def test_bench_of_drafts(shell: Shell) -> None:
    out = shell.folder / "build" / "drafts.json"
    out.parent.mkdir(exist_ok=True)
    few = ("--config", "bench-tiny", "--drafts", "1", "--streams", "1", "--new-tokens", "16", "--rounds", "1")
    assert "times as fast" in shell.run("python", "-m", "bench.drafts", *few, "--rate", "0.9", "--out", str(out))
    found = json.loads(out.read_text())["streams"]["1"]
    for by_drafts in found.values():
        assert by_drafts["0"]["median"]["tokens_per_step"] == 1
        assert by_drafts["1"]["median"]["tokens_per_step"] > 1.2
        assert by_drafts["1"]["median"]["accepted"] > 0.5


def test_bench_of_grammars(shell: Shell) -> None:
    out = shell.folder / "build" / "grammars.json"
    out.parent.mkdir(exist_ok=True)
    printed = shell.run("python", "-m", "bench.grammars", "--vocab", "600", "--answers", "1", "--out", str(out))
    assert "a schema of 2" in printed
    (found,) = json.loads(out.read_text())["by_vocabulary"]
    assert found["later"]["tokens"] > 50
    assert found["later"]["mask_us"]["p50"] > 0


def test_bench_of_checksums(shell: Shell) -> None:
    out = shell.folder / "build" / "checksums.json"
    shell.run("python", "-m", "bench.checksums", "--megabytes", "1", "--out", str(out))
    found = json.loads(out.read_text())
    assert found["page_us"] > 0
    assert found["gigabytes_per_second"]["read"] > 0


def test_bench_gpu_dry(shell: Shell) -> None:
    assert re.search("dry run: [1-9]", shell.run("make", "bench-gpu", "BENCH_GPU=--dry --only determinism"))
    assert "tiles are not ranked" in shell.run("python", "-m", "bench.gpu.tune", "--dry")
