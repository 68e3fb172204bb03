"""`python -m bench.grammars [--vocab N ...] [--answers N] [--out FILE]`: what a schema of 200 lines costs a token.

Answers drawn at random among what the grammar allows, by the attention worker's own code: computing the mask (which
runs beside the model), applying it to a row of logits, and taking the token (both on the engine's thread). Vocabularies
are trained on the Python sources of this installation. `first`: the first answer after compilation, when the
grammar's states are made; `later`: all others, whose states are known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from bench import arguments
from bench.report import machine
from services.attention_worker.engine.token_rules import TokenRules
from services.attention_worker.grammars import GrammarCompiler, GrammarMatcher

VOCABULARIES = (8192, 131072)
ANSWERS, MOST_TOKENS = 12, 600
EOS = 2
OUT = Path(__file__).parent / "results" / "grammars.json"


def schema() -> dict[str, Any]:
    """A JSON schema that takes 200 lines when it is indented: an order with customers, items and addresses."""
    text: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 40}
    address = {
        "type": "object",
        "properties": {
            "street": text,
            "city": text,
            "postcode": {"type": "string", "pattern": "^[0-9]{5}$"},
            "country": {"enum": ["DE", "FR", "IT", "JP", "US"]},
        },
        "required": ["street", "city", "postcode", "country"],
        "additionalProperties": False,
    }
    item = {
        "type": "object",
        "properties": {
            "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            "title": text,
            "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
            "price": {"type": "number", "minimum": 0, "maximum": 100000},
            "tags": {"type": "array", "items": {"enum": ["new", "sale", "fragile", "heavy"]}, "maxItems": 3},
        },
        "required": ["sku", "title", "quantity", "price"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "$defs": {"address": address, "item": item},
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "placed": {"type": "string", "format": "date-time"},
            "status": {"enum": ["open", "paid", "sent", "returned"]},
            "customer": {
                "type": "object",
                "properties": {
                    "name": text,
                    "mail": {"type": "string", "format": "email"},
                    "shipping": {"$ref": "#/$defs/address"},
                    "billing": {"anyOf": [{"$ref": "#/$defs/address"}, {"type": "null"}]},
                },
                "required": ["name", "shipping"],
                "additionalProperties": False,
            },
            "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1, "maxItems": 4},
            "total": {"type": "number"},
            "notes": {"type": "array", "items": text, "maxItems": 2},
            "payment": {
                "type": "object",
                "properties": {
                    "method": {"enum": ["card", "transfer", "cash"]},
                    "due": {"type": "string", "format": "date"},
                    "parts": {"type": "integer", "minimum": 1, "maximum": 12},
                },
                "required": ["method"],
                "additionalProperties": False,
            },
            "history": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"at": {"type": "string", "format": "date-time"}, "event": text},
                    "required": ["at", "event"],
                    "additionalProperties": False,
                },
                "maxItems": 2,
            },
        },
        "required": ["id", "placed", "status", "customer", "items", "total"],
        "additionalProperties": False,
    }


def write_tokenizer(folder: Path, vocab: int) -> int:
    """Writes a byte-level BPE tokenizer of about `vocab` tokens; returns how many it has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sources(vocab * 300), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def _sources(most: int) -> Iterator[str]:
    """Python files of the standard library and of torch, at most so many characters."""
    for folder in (Path(json.__file__).parents[1], Path(np.__file__).parents[1] / "torch"):
        for path in sorted(folder.rglob("*.py")):
            text = path.read_text(errors="replace")
            most -= len(text)
            if most < 0:
                return
            yield text


def answer(matcher: GrammarMatcher, vocab: int, rng: Random) -> list[tuple[float, float, float]]:
    """Draws one answer; returns the microseconds of each of its tokens: mask, apply, accept."""
    rules, row_V, took = TokenRules(grammar=matcher), np.zeros(vocab, np.float32), []
    for _ in range(MOST_TOKENS):
        row_V.fill(0.0)
        began = time.perf_counter()
        matcher._matcher.compute_bitmask()  # as `begin` does, on this thread
        computed = time.perf_counter()
        rules.begin()
        assert matcher._mask is not None
        matcher._mask.result()
        ready = time.perf_counter()
        rules.apply(row_V)
        applied = time.perf_counter()
        token = rng.choice(np.flatnonzero(np.isfinite(row_V)).tolist())
        if token == EOS:
            break
        drawn = time.perf_counter()
        rules.accept(token)
        took.append(((computed - began) * 1e6, (applied - ready) * 1e6, (time.perf_counter() - drawn) * 1e6))
    return took


def measure(vocab: int, answers: int) -> dict[str, Any]:
    grammar = json.dumps({"grammars": [{"json_schema": schema() | {"x-guidance": {"whitespace_flexible": False}}}]})
    with tempfile.TemporaryDirectory(prefix="caracal-grammars-") as name:
        size = write_tokenizer(Path(name), vocab)
        compiler = GrammarCompiler(Path(name), size, frozenset({EOS}))

        def compiled(text: str) -> tuple[GrammarMatcher, float]:
            began = time.perf_counter()
            return compiler.compile(text, lambda matcher: matcher).result(), (time.perf_counter() - began) * 1e3

        _, tokenizer_ms = compiled('start: "warm"')
        matcher, compile_ms = compiled(grammar)
        _, again_ms = compiled(grammar)
        rng = Random(0)
        first = answer(matcher, size, rng)
        later = [took for _ in range(answers) for took in answer(compiled(grammar)[0], size, rng)]
        compiler.close()
    return {
        "vocabulary": size,
        "first_grammar_of_a_worker_ms": round(tokenizer_ms, 1),
        "compile_ms": round(compile_ms, 1),
        "compile_again_ms": round(again_ms, 2),
        "first": figures(first),
        "later": figures(later),
    }


def figures(took: list[tuple[float, float, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {"tokens": len(took)}
    for place, name in enumerate(("mask", "apply", "accept")):
        values = sorted(each[place] for each in took)
        p99 = values[min(len(values) - 1, len(values) * 99 // 100)]
        found[f"{name}_us"] = {"p50": round(statistics.median(values), 1), "p99": round(p99, 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the masks of a JSON schema of 200 lines.")
    parser.add_argument("--vocab", type=arguments.number(300), nargs="+", default=VOCABULARIES, help="tokens")
    parser.add_argument("--answers", type=arguments.number(1), default=ANSWERS)
    parser.add_argument("--out", type=arguments.file, default=OUT, help="a JSON file for the figures")
    args = parser.parse_args()
    lines = len(json.dumps(schema(), indent=1).splitlines())
    result: dict[str, Any] = {"machine": machine(), "schema_lines": lines, "by_vocabulary": []}
    print(f"a schema of {lines} lines; microseconds of a token, median and 99th percentile")
    for vocab in args.vocab:
        found = measure(vocab, args.answers)
        result["by_vocabulary"].append(found)
        for name in ("first", "later"):
            shown = "  ".join(
                f"{key} {value['p50']:8.1f} {value['p99']:8.1f}"
                for key, value in found[name].items()
                if key != "tokens"
            )
            print(f"{found['vocabulary']:>7} {name:>6} {shown}", file=sys.stdout)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
