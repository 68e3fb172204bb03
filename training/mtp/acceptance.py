"""`python -m training.mtp.acceptance` measures how many drafts a server would accept on held-out dialogues.

The trunk gives every answer itself, greedy and sampled at temperature 1. Drafts are drawn as its tokens are, with the
same noise, and accepted when they are equal. A server drafts n tokens behind the last one that it has emitted, keeps
those up to the first wrong one, and emits the trunk's own token after them. Drafts behind an answer's end do not count.
Legend: N places of one pass.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer

from training.arguments import named_failures
from training.arguments import number as whole_number
from training.data.batches import encode, pad
from training.data.dialogues import HELD_OUT, Dialogue
from training.data.held_out import add_data_options, held_out_dialogues
from training.export.read import digest, load_exported, load_head, read_tensors
from training.model.longcat_flash import LongcatFlash
from training.mtp.answers import Answer, complete, draw
from training.mtp.batches import asked, spans
from training.mtp.head import MtpHead

ROOT = Path(__file__).parents[2]
PASSES = 3
Verdicts = list[list[bool]]  # of an answer, by pass: whether the draft of token 1, 2, 3, ... equals the trunk's


@dataclass
class Drafting:
    """What a server counts that drafts `length` tokens per step."""

    length: int
    steps: int = 0
    tokens: int = 0
    drafted: Counter[int] = field(default_factory=Counter)  # by position in the draft, from 0
    accepted: Counter[int] = field(default_factory=Counter)

    def play(self, verdicts: Verdicts) -> None:
        """Adds one answer. Pass n drafts tokens from n on, so its verdict on token t is number t - n."""
        tokens = len(verdicts[0]) + 1
        emitted = 1  # the prompt's own step
        while emitted < tokens:
            room = min(self.length, tokens - emitted)
            right = [verdicts[n][emitted - 1] for n in range(room)]
            kept = right.index(False) if False in right else room
            self.drafted.update(range(room))
            self.accepted.update(range(kept))
            self.steps += 1
            emitted += min(kept + 1, tokens - emitted)
        self.tokens += tokens - 1

    def result(self) -> dict[str, Any]:
        return {
            "drafted": self.drafted.total(),
            "accepted": self.accepted.total(),
            "share": self.accepted.total() / max(1, self.drafted.total()),
            "share_by_position": [self.accepted[n] / max(1, self.drafted[n]) for n in range(self.length)],
            "tokens_per_step": self.tokens / max(1, self.steps),
        }


@torch.no_grad()
def verdicts_of(trunk: LongcatFlash, head: MtpHead, answers: list[Answer], groups: int = 8) -> list[Verdicts]:
    """Compares the drafts of every pass with complete answers."""
    padded = pad([answer.prompt + answer.ids for answer in answers], groups)
    hidden_TD = trunk.norm(trunk.states(padded.ids_T, padded.groups))
    verdicts: list[Verdicts] = [[] for _ in answers]
    counts = [len(answer.ids) - 1 for answer in answers]
    rows_A = torch.cat(
        [
            torch.arange(count) + start + len(answer.prompt) - 1
            for answer, start, count in zip(answers, padded.starts, counts, strict=True)
        ]
    )
    for number, out_AD in enumerate(head(trunk, padded.ids_T, hidden_TD, padded.groups, rows_A, PASSES), 1):
        behind_A = torch.cat([torch.arange(count) for count in counts]) >= number - 1
        rows_N, left = rows_A[behind_A], [max(0, count - number + 1) for count in counts]
        drafts_N = draw(trunk.lm_head(out_AD[behind_A]), answers, left, first=number)
        right_N = drafts_N == padded.ids_T[rows_N + 2]
        for mine, right in zip(verdicts, right_N.split(left), strict=True):
            mine.append(right.tolist())
    return verdicts


def held_out(
    tokenizer: Tokenizer, played: Iterable[Dialogue], seed: int, temperature: float
) -> tuple[list[Answer], list[str]]:
    """Returns every answer of the dialogues, after the expected history, and their categories."""
    answers: list[Answer] = []
    categories: list[str] = []
    for dialogue in played:
        encoded = encode(tokenizer, dialogue)
        for number, answer in enumerate(dialogue.answers):
            answers.append(asked(encoded, number, seed * 100_000 + len(answers), temperature))
            categories.append(answer.category)
        assert len(spans(encoded[1])) == len(dialogue.answers)
    return answers, categories


def measure(folder: Path, played: Iterable[Dialogue], seed: int, temperature: float, chunk: int = 64) -> dict[str, Any]:
    """Returns acceptance by length of the draft, and of single drafts by category of answer."""
    trunk, tokenizer = load_exported(folder)
    head = load_head(folder)
    answers, categories = held_out(tokenizer, played, seed, temperature)
    drafting = [Drafting(length) for length in range(1, PASSES + 1)]
    by_category: dict[str, Drafting] = {}
    order = sorted(range(len(answers)), key=lambda number: len(answers[number].prompt))
    for begin in track(range(0, len(order), chunk), f"temperature {temperature:g}", transient=True):
        part = order[begin : begin + chunk]
        complete(trunk, chosen := [answers[number] for number in part])
        for number, verdicts in zip(part, verdicts_of(trunk, head, chosen), strict=True):
            for one in (*drafting, by_category.setdefault(categories[number], Drafting(1))):
                one.play(verdicts)
    return {
        "answers": len(answers),
        "tokens": sum(len(answer.ids) for answer in answers),
        "by_draft_length": {str(one.length): one.result() for one in drafting},
        "share_by_category": {kind: one.result()["share"] for kind, one in sorted(by_category.items())},
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = Table("", "draft", "accepted", "by position", "tokens per step")
    for name in ("greedy", "sampled"):
        for length, row in result[name]["by_draft_length"].items():
            positions = " ".join(f"{share:.1%}" for share in row["share_by_position"])
            table.add_row(name, length, f"{row['share']:.1%}", positions, f"{row['tokens_per_step']:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.mtp.acceptance", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "caracal-tiny")
    parser.add_argument("--dialogues", type=whole_number(1), default=200)
    parser.add_argument("--seed", type=int, default=HELD_OUT + 1, help="one that training never uses")
    add_data_options(parser)
    parser.add_argument("--threads", type=whole_number(1), default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begun = time.perf_counter()
    with named_failures(parser, ValueError):
        stream = held_out_dialogues(arguments.data, arguments.words)
    played = list(stream(arguments.seed, 0, arguments.dialogues))
    with named_failures(parser, OSError, "--model"):
        result: dict[str, Any] = {"model": arguments.model.name, "weights": digest(read_tensors(arguments.model))}
        result |= {"dialogues": arguments.dialogues, "seed": arguments.seed}
        for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            result[name] = measure(arguments.model, played, arguments.seed, temperature)
    result["seconds"] = round(time.perf_counter() - begun, 1)
    result["date"] = datetime.now(UTC).date().isoformat()
    show(result, Console())
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
