"""FFN experts by kind of token, on held-out dialogues, of an exported model: what a token's budget depends on.

Legend: T tokens, K choices per token, L layers.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from torch import Tensor

from training.arguments import named_failures
from training.data.chat import CALL, END_CALL, segments
from training.data.dialogues import HELD_OUT, Dialogue
from training.data.held_out import add_data_options, held_out_dialogues
from training.data.tokenizer import EOS
from training.export.read import load_exported
from training.model.longcat_flash import LongcatFlash
from training.model.moe import MoE

plt.switch_backend("Agg")

ROOT = Path(__file__).parents[2]
FUNCTION_WORDS = re.compile(
    "a|am|an|and|are|by|can|did|do|does|for|from|have|how|i|in|is|it|me|much|my|not|of|on|put|tell|that|the|to|up|was"
    "|what|where|which|who|you|your"
)
# The first that covers a token's place decides; ARGUMENT's group is a value inside a call.
ROLE = re.compile(r"(?:\[Round \d+\] )?(?:USER|SYSTEM|ASSISTANT|TOOL):")
CALLED = re.compile(re.escape(CALL) + r".*?" + re.escape(END_CALL), re.S)
ARGUMENT = re.compile(r'"arguments": \{(.*)\}')
VALUE = re.compile(r': (?:"([^"]*)"|(\d+))')


def spans(text: str, produced: bool) -> list[tuple[int, int, str]]:
    """Returns (start, end, kind) of what the chat format makes of a segment; earlier ones count first."""
    found = []
    if produced:
        for call in CALLED.finditer(text):
            for given in ARGUMENT.finditer(call[0]):
                for value in VALUE.finditer(given[1]):
                    group = 1 if value[1] is not None else 2
                    start = call.start() + given.start(1)
                    found.append((start + value.start(group), start + value.end(group), "argument of a tool call"))
            found.append((*call.span(), "tool-call syntax"))
    elif "## Messages\n" in text:
        found.append((0, text.index("## Messages\n") + len("## Messages\n"), "declaration of tools"))
    if not produced:
        found += [(*role.span(), "role of the chat") for role in ROLE.finditer(text)]
    return found


def kind_of(token: int, start: int, end: int, text: str, produced: bool, marked: list[tuple[int, int, str]]) -> str:
    """Returns the kind of the token at text[start:end]."""
    if token == EOS:
        return "end of an answer"
    for first, last, kind in marked:
        if first <= start and end <= last:
            return kind
    word = text[start:end].strip().lower()
    if word.isdigit():
        return "digit of an answer" if produced else "digit of a question"
    if not any(letter.isalpha() for letter in word):
        return "punctuation and spaces"
    return "function word" if FUNCTION_WORDS.fullmatch(word) else "other word"


def kinds(tokenizer: Tokenizer, dialogue: Dialogue) -> tuple[list[int], list[str]]:
    """Returns the ids of a dialogue and the kind of each."""
    ids: list[int] = []
    found: list[str] = []
    for text, produced in segments(dialogue):
        encoded = tokenizer.encode(text, add_special_tokens=False)
        marked = spans(text, produced)
        ids += encoded.ids
        for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            start += len(text[start:end]) - len(text[start:end].lstrip())  # a word's token has the space before it
            found.append(kind_of(token, min(start, end), end, text, produced, marked))
    return ids, found


def ffn_experts(moe: MoE) -> Tensor:
    """Returns the number of FFN experts of each token of the last forward pass, [T]."""
    assert moe.chosen_TK is not None
    return (moe.chosen_TK < moe.num_experts).sum(-1)


@torch.no_grad()
def experts_by_kind(model: LongcatFlash, tokenizer: Tokenizer, played: list[Dialogue]) -> dict[str, Tensor]:
    """Returns [L, tokens] FFN experts by kind."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for dialogue in track(played, "dialogues"):
        ids, found = kinds(tokenizer, dialogue)
        model.states(torch.tensor(ids), [(1, len(ids))])
        number_LT = torch.stack([ffn_experts(moe) for moe in model.mixtures()])
        for kind in set(found):
            parts[kind].append(number_LT[:, [one == kind for one in found]])
    return {kind: torch.cat(numbers, 1).float() for kind, numbers in parts.items()}


def draw(result: dict[str, dict[str, Any]], out: Path) -> None:
    names = sorted(result, key=lambda kind: sum(result[kind]["mean"]))
    layers = len(result[names[0]]["mean"])
    figure, axes = plt.subplots(1, layers, figsize=(3 + 3 * layers, 4.5), sharey=True, layout="constrained")
    for layer, axis in enumerate(axes):
        means = [result[kind]["mean"][layer] for kind in names]
        deviations = [result[kind]["std"][layer] for kind in names]
        axis.barh(names, means, xerr=deviations, color="tab:blue", ecolor="tab:grey", error_kw={"linewidth": 0.8})
        axis.set(title=f"layer {layer}", xlabel="FFN experts, ± std over tokens")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.experiments.token_kinds", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "caracal-tiny")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "training", help="where result and plot go")
    parser.add_argument("--dialogues", type=int, default=200)
    parser.add_argument("--seed", type=int, default=HELD_OUT + 1, help="one that training never uses")
    add_data_options(parser)
    given = parser.parse_args()
    with named_failures(parser, ValueError):
        stream = held_out_dialogues(given.data, given.words)
    torch.set_num_threads(1)
    model, tokenizer = load_exported(given.model)
    numbers = experts_by_kind(model, tokenizer, list(stream(given.seed, 0, given.dialogues)))
    result: dict[str, dict[str, Any]] = {
        kind: {
            "tokens": number_LT.shape[1],
            "mean": number_LT.mean(1).tolist(),
            "std": number_LT.std(1, correction=0).tolist(),
        }
        for kind, number_LT in sorted(numbers.items())
    }
    table = Table("kind", "tokens", *(f"layer {layer}" for layer in range(model.config.num_layers)))
    for kind, row in result.items():
        cells = (f"{mean:.2f} ± {std:.2f}" for mean, std in zip(row["mean"], row["std"], strict=True))
        table.add_row(kind, str(row["tokens"]), *cells)
    Console().print(table)
    given.docs.mkdir(parents=True, exist_ok=True)
    record = {
        "model": given.model.name,
        "data": given.data,
        "dialogues": given.dialogues,
        "seed": given.seed,
        "kinds": result,
    }
    (given.docs / "token-kinds.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(result, given.docs / "token-kinds.png")


if __name__ == "__main__":
    main()
