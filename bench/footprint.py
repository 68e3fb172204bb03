"""What a cluster takes besides time: bytes on the wire, and memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from bench.metrics import scrape
from bench.processes import Cluster, peak_rss_bytes
from bench.row import Row
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.reader import Checkpoint

PAGE_SIZE = AttentionSettings.page_size
WIRE, MEMORY = "Bytes on the wire", "Memory"


def wire(target: Cluster) -> list[Row]:
    """Compares the share of bytes that are received at all with the share of FFN choices, both from counters."""
    values = scrape(target)
    received = values['caracal_dispatch_bytes_total{direction="received"}']
    share = received / values["caracal_dispatch_bytes_if_all_ffn_total"]
    kinds = {kind: _choices(values, kind) for kind in ("ffn", "zero")}
    ffn = kinds["ffn"] / sum(kinds.values())
    detail = f"FFN choices {kinds['ffn']:.0f} of {sum(kinds.values()):.0f}; {received:.0f} bytes received"
    return [
        Row(
            "expert replies ÷ those if every choice were an FFN expert",
            share,
            "",
            f"= FFN share {ffn:.6f}",
            share == ffn,
            detail,
            section=WIRE,
            key="wire",
        )
    ]


def _choices(values: Mapping[str, float], kind: str) -> float:
    wanted = f'kind="{kind}"'
    return sum(v for name, v in values.items() if name.startswith("caracal_moe_choices_total") and wanted in name)


def needed_bytes(checkpoint: Checkpoint, pages: int) -> dict[str, int]:
    """Returns the size of each role's weights and pages in bf16 (the classifier of the gate in fp32)."""
    c = checkpoint.config
    experts = c.num_layers * c.n_routed_experts * 3 * c.hidden_size * c.expert_ffn_hidden_size * 2
    files = sum(file.stat().st_size for file in checkpoint.path.glob("*.safetensors"))
    cache = 2 * c.num_layers * pages * PAGE_SIZE * c.latent * 2
    return {"router": 0, "attention_worker": files - experts + cache, "expert_worker": experts}


def memory(target: Cluster, needed: Mapping[str, int]) -> list[Row]:
    """Measures each process's peak resident memory, and shows the size of its weights and pages."""
    bare = bare_torch_bytes() / 2**20
    rows = []
    for role, pids in target.pids.items():
        need = needed[role] / 2**20
        floor = f"(weights and pages {need:.0f} MiB, a process that only imports torch {bare:.0f} MiB)"
        for pid in pids:
            peak = peak_rss_bytes(pid) / 2**20
            rows.append(
                Row(
                    f"{role.replace('_', ' ')}, peak",
                    peak,
                    "MiB",
                    floor if need else "(no torch)",
                    section=MEMORY,
                    key=f"memory/{role}",
                )
            )
    return rows


def bare_torch_bytes() -> int:
    """Returns the peak resident memory of a process that only imports torch."""
    code = "import torch; print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) * 1024
