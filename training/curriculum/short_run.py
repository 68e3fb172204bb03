"""`python -m training.curriculum.short_run` trains one step of each stage and prints the digest of the weights.

The last stage is that of drafts. It shows that the command that makes the built-in model makes the same bits again: on
this machine in any number of threads, and on machines whose matrix products have the bits of the one that wrote
`short-run.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from training.curriculum.built_in import MTP, curriculum, recipe_of
from training.data.corpus import Source
from training.determinism.mode import make_deterministic
from training.execution import Execution
from training.export.read import digest
from training.export.write import export
from training.mtp.stage import Mtp
from training.recipe import AgenticRecipe, Recipe
from training.trunk import Trunk

KEPT = Path(__file__).parent / "short-run.json"


def machine() -> dict[str, str]:
    """What the bits of matrix products depend on."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    entries = [line.split(":", 1) for line in lines if ":" in line]
    fields = {name.strip(): value.strip() for name, value in reversed(entries)}
    known = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
    return {
        "torch": torch.__version__,
        "processor": f"{platform.machine()} {fields.get('vendor_id', '')}".strip(),
        "instructions": " ".join(sorted(known & set(fields.get("flags", "").split()))),
    }


def short_run(threads: int) -> str:
    stages = curriculum()
    made = recipe_of(Recipe.seed, stages.shortened(len(stages.stages)), AgenticRecipe(), MTP)
    with tempfile.TemporaryDirectory(prefix="caracal-short-run-") as folder:
        run, model = Path(folder), Path(folder) / "model"
        trunk = Trunk(run / "trunk", made, Execution(threads=threads))
        while trunk.step < stages.shortened(len(stages.stages)).steps:
            trunk.advance()
        export(trunk.model, trunk.tokenizer, model)
        drafts = Mtp(run / "mtp", model, made.seed, MTP, Source(), threads)
        drafts.advance()
        return digest({**trunk.model.state_dict(), **drafts.head.state_dict(prefix="mtp.")})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.curriculum.short_run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--threads", type=int, default=1, help="padded groups of a batch that are computed at once")
    parser.add_argument("--write", action="store_true", help=f"keep it in {KEPT.name}")
    arguments = parser.parse_args()
    make_deterministic()
    found = {"machine": machine(), "weights": short_run(arguments.threads)}
    if arguments.write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    Console(soft_wrap=True).print_json(json.dumps(found))


if __name__ == "__main__":
    main()
