"""`python -m training` trains the built-in model and its MTP module, exports and plots. Run it again to resume.

`torchrun --nproc-per-node 2 -m -- training` does it with two ranks, which share batches and experts. Any number
of ranks and threads gives the same bits, and may resume what another number began. The MTP module's stage is the
first rank's.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry
from rich.console import Console

from services.process.metrics_server import serve_metrics
from training.arguments import named_failures
from training.data.dialogues import HELD_OUT, dialogues
from training.determinism.mode import make_deterministic
from training.determinism.watch import Watch
from training.distributed.team import join_team, leave_team
from training.execution import Execution
from training.experiments.plots import draw_training, draw_usage
from training.experiments.quality import score
from training.export.read import load_exported
from training.export.write import export
from training.freed_memory import keep_freed_memory
from training.model.config import SERVED, Architecture, ModelConfig
from training.model.longcat_flash import LongcatFlash
from training.mtp.stage import Mtp
from training.recipe import (
    AdamRecipe,
    BalanceRecipe,
    ControllerRecipe,
    GrowthRecipe,
    HiddenRecipe,
    MonitorRecipe,
    MtpRecipe,
    Recipe,
    TrunkRecipe,
)
from training.stability.metrics import TrainingMetrics
from training.trunk import Trunk

HERE = Path(__file__).parent
BUILT = HERE.parent / "build" / "training"
PARTS = (
    "controller",
    "balance",
    "hidden",
    "monitors",
    "determinism",
    "mtp",
    "shortcut",
    "attention-alignment",
    "expert-alignment",
)


def publish(trunk: Trunk, whole: LongcatFlash, out: Path, docs: Path) -> None:
    """Writes the exported model, the run's log, and the plots; the histogram is of the exported bf16 weights."""
    export(whole, trunk.tokenizer, out)
    docs.mkdir(parents=True, exist_ok=True)
    log = docs / "training-log.jsonl"
    shutil.copyfile(trunk.folder.log_path, log)
    controller = trunk.recipe.controller
    draw_training(log, controller.ffn_experts if controller else None, docs / "training.png")
    model, tokenizer = load_exported(out)
    draw_usage(score(model, tokenizer, list(dialogues(HELD_OUT, 0, 200))).usage, docs / "ffn-experts.png")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    left_out = set(arguments.without)
    return Recipe(
        seed=arguments.seed,
        model=ModelConfig(num_layers=arguments.layers),
        adam=AdamRecipe(*arguments.adam) if arguments.adam else None,
        growth=GrowthRecipe(*arguments.grow) if arguments.grow else None,
        trunk=TrunkRecipe(steps=arguments.steps, bfloat16=arguments.precision == "bf16"),
        architecture=Architecture(
            shortcut="shortcut" not in left_out,
            attention_alignment="attention-alignment" not in left_out,
            expert_alignment="expert-alignment" not in left_out,
        ),
        controller=None if "controller" in left_out else ControllerRecipe(),
        balance=None if "balance" in left_out else BalanceRecipe(),
        hidden=None if "hidden" in left_out else HiddenRecipe(),
        monitors=None if "monitors" in left_out else MonitorRecipe(),
        mtp=None if "mtp" in left_out else MtpRecipe(steps=arguments.mtp_steps),
        determinism="determinism" not in left_out,
    )


def metrics_at(port: int | None, console: Console) -> TrainingMetrics:
    """Returns the metrics, served on 127.0.0.1 where a port is given; 0 takes a free one."""
    metrics = TrainingMetrics(CollectorRegistry())
    if port is not None:
        served = serve_metrics("127.0.0.1", port, metrics.registry)
        console.print(f"metrics: http://127.0.0.1:{served}/metrics")
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "runs" / "tiny", help="folder of checkpoints and logs")
    parser.add_argument("--out", type=Path, default=BUILT / "model", help="where the model goes")
    parser.add_argument("--docs", type=Path, default=BUILT / "docs", help="where the log and the plots go")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=TrunkRecipe.steps, help="fewer only to try the program out")
    parser.add_argument("--mtp-steps", type=int, default=MtpRecipe.steps, help="of the MTP module; likewise")
    parser.add_argument("--without", action="append", default=[], choices=PARTS, help="a part to leave out; repeatable")
    parser.add_argument("--layers", type=int, default=ModelConfig.num_layers)
    grow = "begin with a part of the layers, and at STEP stack them R times"
    parser.add_argument("--grow", type=int, nargs=2, metavar=("STEP", "R"), help=grow)
    adam = "AdamW alone; η and σ² × inputs are a proxy's, and the model is S times as wide (Adam LR Full Align)"
    parser.add_argument("--adam", type=float, nargs=3, metavar=("RATE", "VARIANCE", "S"), help=adam)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of the trunk's products")
    parser.add_argument("--metrics-port", type=int, help="serves the monitors to Prometheus while the run lasts")
    parser.add_argument("--threads", type=int, help="padded groups computed at once; default: as torch's threads")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the trunk's stage; one GPU a rank")
    parser.add_argument("--expert-ranks", type=int, help="ranks that share a layer's experts; default: all")
    parser.add_argument("--watch", type=int, default=0, metavar="STEPS", help="look for silent corruption so often")
    parser.add_argument("--watch-experts", type=float, default=Watch.expert_share, help="share of experts looked at")
    arguments = parser.parse_args()
    keep_freed_memory()
    recipe = recipe_of(arguments)
    threads = arguments.threads or (1 if arguments.device == "cuda" else torch.get_num_threads())
    team, watch = join_team(arguments.device, arguments.expert_ranks), Watch(arguments.watch, arguments.watch_experts)
    if recipe.determinism:
        make_deterministic()
    else:
        torch.set_num_threads(threads)
    console = Console(quiet=not team.first)
    metrics = metrics_at(arguments.metrics_port if team.first else None, console)
    with named_failures(parser, ValueError):
        trunk = Trunk(arguments.run, recipe, Execution(team, threads if recipe.determinism else 1, watch))
    trunk.run(console, metrics.show)
    model = trunk.whole_model()
    leave_team(team)
    if team.first:
        finish(arguments, trunk, model, console, metrics, threads)


def finish(
    arguments: argparse.Namespace,
    trunk: Trunk,
    model: LongcatFlash,
    console: Console,
    metrics: TrainingMetrics,
    threads: int,
) -> None:
    """What only the first rank does: export, plots, and the MTP module's stage."""
    recipe = trunk.recipe
    if recipe.architecture != SERVED:
        console.print("not exported: servers compute the architecture with shortcut and alignment")
        return
    publish(trunk, model, arguments.out, arguments.docs)
    if recipe.mtp:
        mtp = Mtp(arguments.run / "mtp", arguments.out, recipe.seed, recipe.mtp, threads=threads)
        mtp.run(console, metrics.show)
        mtp.publish()
    console.print(
        f"exported to {arguments.out}; evaluate with: "
        f"python -m training.evaluate --offline --data dialogues --model {arguments.out}"
    )


if __name__ == "__main__":
    main()
