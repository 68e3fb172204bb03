"""Measures each op's error in ULPs against the same op in fp64, on the same rounded inputs.

A unit in the last place (ULP) is the distance of the result's dtype between neighbouring numbers at the right value. An
element near zero may be many ULPs off because it is a difference of large terms; the last column therefore takes the
ULP at the tensor's largest value. Inputs are normal numbers in the built-in model's sizes, `--scale` times the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib import pyplot as plt
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from training.determinism.mode import make_deterministic
from training.distributed.exchange import swiglu
from training.distributed.tree import tree_sum
from training.experiments.page import parser_of, table, write_result, write_section
from training.experiments.runner import Case, Json, Results, run_cases
from training.model.attention import RMSNorm, attend, rotate
from training.model.config import ModelConfig
from training.optimizer.muon_adamw import orthogonal
from training.progress import progress_bar
from training.recipe import TrunkRecipe

plt.switch_backend("Agg")
NAME = "ulp"
C = ModelConfig()
EPSILON = TrunkRecipe.adam_epsilon
WIDE = torch.float64


@dataclass(frozen=True)
class Op:
    """`run` takes tensors of `shapes` in `dtype`, and is differentiated unless `forward` is all there is.

    `exact`: the same function for fp64 where the op itself would round in between.
    """

    name: str
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    run: Callable[..., Tensor]
    exact: Callable[..., Tensor] | None = None
    forward: bool = False


def norm(x_TD: Tensor, weight_D: Tensor) -> Tensor:
    module = RMSNorm(len(weight_D), C.rms_norm_eps)
    y_TD: Tensor = torch.func.functional_call(module, {"weight": weight_D}, (x_TD,))
    return y_TD


def exact_norm(x_TD: Tensor, weight_D: Tensor) -> Tensor:
    return weight_D * x_TD * torch.rsqrt(x_TD.pow(2).mean(-1, keepdim=True) + C.rms_norm_eps)


def gate(x_TD: Tensor, weight_GD: Tensor) -> Tensor:
    return F.linear(x_TD, weight_GD).softmax(-1)


def combine(y_AD: Tensor, weight_A1: Tensor) -> Tensor:
    """Adds the outputs of neighbours in fours, as tokens add those of their experts."""
    sums_TD: Tensor = (y_AD * weight_A1).unflatten(0, (-1, 4)).sum(1)
    return sums_TD


def expert_sums(*parts: Tensor) -> Tensor:
    return tree_sum(list(parts))


def loss(logits_AV: Tensor) -> Tensor:
    targets = torch.arange(len(logits_AV)) % logits_AV.shape[1]
    return F.cross_entropy(logits_AV, targets, reduction="none")


def adamw(value: Tensor, grad: Tensor) -> Tensor:
    parameter = torch.nn.Parameter(value.clone())
    parameter.grad = grad
    torch.optim.AdamW([parameter], lr=0.004, betas=(0.9, 0.98), eps=EPSILON, weight_decay=0.0).step()
    return parameter.detach()


def exact_adamw(value: Tensor, grad: Tensor) -> Tensor:
    """The first update: both averages, their bias corrected, are the gradient and its square."""
    return value - 0.004 * grad / (grad.abs() + EPSILON)


def ops(rows: int) -> list[Op]:
    """Returns every op of a training step, in the dtypes of training with bf16 products."""
    b, f, hidden = torch.bfloat16, torch.float32, C.hidden_size
    heads, qk, value = C.num_attention_heads, C.qk_nope_head_dim + C.qk_rope_head_dim, C.v_head_dim
    kv = (rows, heads, qk)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, [(4, rows // 4)])

    def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.view(4, rows // 4, heads, -1).transpose(1, 2) for x in (q, k, v))
        mask = torch.ones(rows // 4, rows // 4, dtype=torch.bool).triu(1)
        scores = (q @ k.mT / math.sqrt(qk)).masked_fill(mask, -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, -1)

    def rope(x: Tensor, angle: Tensor) -> Tensor:
        return rotate(x, torch.cat([angle.cos(), angle.sin()], -1))

    return [
        Op("linear, hidden to FFN", b, ((rows, hidden), (C.ffn_hidden_size, hidden)), F.linear),
        Op("linear, FFN to hidden", b, ((rows, C.ffn_hidden_size), (hidden, C.ffn_hidden_size)), F.linear),
        Op("linear, head", b, ((rows, hidden), (C.vocab_size, hidden)), F.linear),
        Op("linear, hidden to FFN", f, ((rows, hidden), (C.ffn_hidden_size, hidden)), F.linear),
        Op("router: linear and softmax", f, ((rows, hidden), (C.num_gates, hidden)), gate),
        Op("RMSNorm", f, ((rows, hidden), (hidden,)), norm, exact_norm),
        Op("RMSNorm", b, ((rows, C.kv_lora_rank), (C.kv_lora_rank,)), norm, exact_norm),
        Op("rope", b, ((rows, heads, C.qk_rope_head_dim), (rows, C.qk_rope_head_dim // 2)), rope),
        Op("attention", b, (kv, kv, (rows, heads, value)), attention, exact_attention),
        Op("attention", f, (kv, kv, (rows, heads, value)), attention, exact_attention),
        Op("SiLU", b, ((rows, C.ffn_hidden_size),), F.silu),
        Op("expert: SwiGLU whole", b, ((rows // 4, hidden), (2 * C.expert_ffn_hidden_size, hidden),
                                       (hidden, C.expert_ffn_hidden_size)), swiglu),
        Op("weighted outputs of 4 experts", f, ((rows * 4, hidden), (rows * 4, 1)), combine),
        Op("tree of 8 sums", f, ((rows, hidden),) * 8, expert_sums, forward=True),
        Op("embedding", f, ((64, hidden),), lambda weight: F.embedding(torch.arange(rows) % 64, weight)),
        Op("AdamW, one update", f, ((rows, hidden),) * 2, adamw, exact_adamw, forward=True),
        Op("cross entropy", f, ((rows, C.vocab_size),), loss),
        Op("Newton-Schulz, 5 steps", f, ((8, hidden, C.ffn_hidden_size),), orthogonal, forward=True),
    ]  # fmt: skip


def inputs_of(op: Op, seed: int) -> list[Tensor]:
    """Returns normal numbers; of matrices, so that products have variance 1."""
    rng = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=rng) for shape in op.shapes]
    if op.name.startswith(("linear", "router", "expert")):
        made[1:] = [matrix / math.sqrt(matrix.shape[-1]) for matrix in made[1:]]
    return [tensor.to(op.dtype) for tensor in made]


def ulps(got: Tensor, right: Tensor, dtype: torch.dtype) -> Json:
    """Returns median, 99.9 % quantile and largest error in ULPs, and the largest in those of the largest value."""
    wide, bits = right.flatten(), {torch.bfloat16: 8, torch.float32: 24}[dtype]
    _, exponent = torch.frexp(wide)
    unit = torch.ldexp(torch.ones_like(wide), exponent.clamp(min=-125) - bits)
    error = (got.flatten().to(WIDE) - wide).abs()
    largest = torch.ldexp(torch.ones((), dtype=WIDE), torch.frexp(wide.abs().max())[1] - bits)
    by_element = (error / unit).sort().values
    return {
        "median": float(by_element[len(by_element) // 2]),
        "p999": float(by_element[min(len(by_element) - 1, int(0.999 * len(by_element)))]),
        "max": float(by_element[-1]),
        "of_largest": float((error / largest).max()),
    }


def measured(op: Op, seed: int) -> Json:
    """Returns errors of the output and of each gradient."""
    given = [tensor.requires_grad_(not op.forward) for tensor in inputs_of(op, seed)]
    wide = [tensor.detach().to(WIDE).requires_grad_(not op.forward) for tensor in given]
    got, right = op.run(*given), (op.exact or op.run)(*wide)
    found = {"output": ulps(got.detach(), right.detach(), op.dtype)}
    if not op.forward:
        grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(seed + 1)).to(got.dtype)
        mine, theirs = torch.autograd.grad(got, given, grad), torch.autograd.grad(right, wide, grad.to(WIDE))
        for number, (one, two) in enumerate(zip(mine, theirs, strict=True)):
            found[f"gradient {number + 1}"] = ulps(one, two, op.dtype)
    return found


def case_of(op: Op, rows: int, seed: int) -> Case:
    name = f"{op.name} {str(op.dtype).removeprefix('torch.')}"
    identity = {"op": name, "rows": rows, "seed": seed}
    return Case(name.replace(",", "").replace(":", ""), seed, identity, lambda *_: measured(op, seed))


def lines_of(results: Results, seed: int) -> list[tuple[str, ...]]:
    return [
        (name, tensor, f"{e['median']:.2f}", f"{e['p999']:.3g}", f"{e['max']:.3g}", f"{e['of_largest']:.2f}")
        for name, by_seed in results.items()
        for tensor, e in by_seed[seed].items()
    ]


def draw(lines: list[tuple[str, ...]], docs_file: str) -> None:
    figure, axis = plt.subplots(figsize=(9, 0.19 * len(lines) + 1), layout="constrained")
    names = [f"{name}, {tensor}" for name, tensor, *_ in lines][::-1]
    axis.barh(names, [float(line[5]) for line in lines][::-1], color="tab:blue")
    axis.set(xlabel="largest error, ULPs of the tensor's largest value", xscale="log")
    axis.tick_params(axis="y", labelsize=6)
    figure.savefig(docs_file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = parser_of(NAME, __doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=int, default=1, choices=range(1, 65), metavar="N", help="N times as much")
    parser.add_argument("--rows", type=int, default=512, help="tokens, at scale 1; a multiple of 4")
    given, console, results = parser.parse_args(), Console(), Results()
    make_deterministic()
    rows = given.rows * given.scale
    listed = ops(rows)
    with progress_bar(console, NAME, 0, len(listed)) as update:
        for number, op in enumerate(listed):
            update(number, op.name, None)
            results |= run_cases([case_of(op, rows, given.seed)], given.run, console)
        update(len(listed), "done", None)
    lines = lines_of(results, given.seed)
    write_result(given.docs, NAME, {"rows": rows, "seed": given.seed, "errors": results})
    draw(lines, str(given.docs / f"{NAME}.png"))
    text = table(("op", "tensor", "median", "99.9 %", "largest", "largest ÷ ULP of the largest value"), lines)
    write_section(given.docs, NAME, text)
    console.print(text, soft_wrap=True)


if __name__ == "__main__":
    main()
