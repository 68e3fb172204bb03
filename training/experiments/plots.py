"""Draws the two plots of docs/: routing during the run, and FFN experts per token on held-out dialogues."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt

from training.experiments.curves import read_log
from training.stability.controller import Usage

plt.switch_backend("Agg")


def draw_training(log: Path, target: float | None, out: Path) -> None:
    """Draws loss and exactness, and below them each layer's mean FFN experts per token with the target's ±5 % band."""
    steps, checks = read_log(log, "step"), read_log(log, "check")
    at = [record["step"] for record in steps]
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    above.plot(at, [record["loss"] for record in steps], color="tab:grey", linewidth=0.8, label="training loss")
    above.set(yscale="log", ylabel="cross entropy of answer tokens")
    share = above.twinx()
    share.plot([c["step"] for c in checks], [c["exact"] for c in checks], "o-", color="tab:green", markersize=3)
    share.set(ylim=(0, 1.02), ylabel="exact held-out answers (green)")
    for layer in range(len(steps[-1]["mean"])):
        have = [record for record in steps if layer < len(record["mean"])]  # a model that grows has more layers later
        line = [record["mean"][layer] for record in have]
        below.plot([record["step"] for record in have], line, linewidth=0.8, label=f"layer {layer}")
    if target is not None:
        below.axhspan(0.95 * target, 1.05 * target, color="tab:green", alpha=0.15, label="target ±5 %")
    below.set(xlabel="step", ylabel="FFN experts per token, mean of the batch")
    below.legend(ncols=4, fontsize="small")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_usage(usage: list[Usage], out: Path) -> None:
    """Draws one histogram per layer."""
    figure, axes = plt.subplots(1, len(usage), figsize=(3.2 * len(usage), 3), sharey=True, layout="constrained")
    for layer, (axis, one) in enumerate(zip(axes, usage, strict=True)):
        total = sum(one.histogram)
        axis.bar(range(len(one.histogram)), [count / total for count in one.histogram], color="tab:blue")
        axis.axvline(one.mean, color="tab:orange", label=f"mean {one.mean:.2f}, std {one.std:.2f}")
        axis.set(title=f"layer {layer}", xlabel="FFN experts of a token")
        axis.legend(fontsize="small")
    axes[0].set(ylabel="share of tokens")
    figure.savefig(out, dpi=110)
    plt.close(figure)
