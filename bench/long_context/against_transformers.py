"""A long prompt through a whole cluster in fp32, beside transformers on the same weights, and the memory it took."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.contenders import MODEL
from bench.metrics import cache_pages
from bench.processes import Cluster, rss_bytes
from bench.row import Row
from bench.transformers_baseline import load_transformers
from services.attention_worker.settings import AttentionSettings
from services.cli.plan import load_sizes, make_plan

NEW_TOKENS = 16
TOLERANCE = 1e-4
WARM_TOKENS = 600  # more than a step takes: buffers that are kept have their size before memory is measured
FEW_PAGES = 64
PAGE_SIZE = AttentionSettings.page_size
CHUNK = 512  # tokens that transformers takes at once: its attention holds a score for every one of them and every key


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy tokens and the log-probability of each."""

    ids: list[int]
    logprobs: list[float]


def prompt_of(length: int, vocabulary: int) -> list[int]:
    rng = random.Random(7)
    return [rng.randrange(10, vocabulary) for _ in range(length)]


def ask(url: str, prompt: list[int], new_tokens: int) -> Answer:
    """The cluster's greedy answer, over HTTP."""
    body: dict[str, Any] = {"model": MODEL, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0}
    body |= {"ignore_eos": True, "logprobs": 0, "return_token_ids": True}
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers), timeout=1800
    ) as response:
        choice = json.load(response)["choices"][0]
    return Answer(choice["token_ids"], choice["logprobs"]["token_logprobs"])


@torch.inference_mode()
def ask_transformers(directory: Path, prompt: list[int], new_tokens: int) -> Answer:
    """The greedy answer of transformers in fp32, its prompt in chunks."""
    model = load_transformers(directory, torch.float32)
    answer, cache = Answer([], []), None
    left = list(prompt)
    while len(answer.ids) < new_tokens:
        chunk, left = left[:CHUNK], left[CHUNK:]
        out = model(torch.tensor([chunk]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        if not left:
            logprobs_V = torch.log_softmax(out.logits[0, -1].float(), -1)
            answer.ids.append(int(logprobs_V.argmax()))
            answer.logprobs.append(float(logprobs_V.max()))
            left = answer.ids[-1:]
    return answer


def memory_with(cluster: Cluster, prompt: list[int]) -> int:
    """Resident bytes of the attention worker after a prompt."""
    ask(cluster.url, prompt, NEW_TOKENS)
    return rss_bytes(cluster.pids["attention_worker"][0])


def rows_of_cluster(few: Cluster, whole: Cluster, directory: Path, prompt: list[int]) -> tuple[Answer, list[Row]]:
    """The answer of `whole`, how long it took, and how much more memory it has than `few`, a cluster of FEW_PAGES."""
    small = memory_with(few, prompt[:WARM_TOKENS])
    began = time.perf_counter()
    answer = ask(whole.url, prompt, NEW_TOKENS)
    seconds = time.perf_counter() - began
    grown = rss_bytes(whole.pids["attention_worker"][0]) - small
    plan = make_plan(load_sizes(str(directory)), "fp32", 80, 80)
    pages = cache_pages(whole)
    planned = plan.token_bytes * PAGE_SIZE * (pages - FEW_PAGES)
    detail = f"{pages} pages: {grown / 2**20:.1f} MiB more than with {FEW_PAGES} pages, {planned / 2**20:.1f} planned"
    context = pages * PAGE_SIZE
    return answer, [
        Row(f"{len(prompt)} tokens and {NEW_TOKENS} new ones alone, fp32", seconds, "s"),
        Row(
            f"memory of a worker with pages for {context} tokens, after {len(prompt)} ÷ what `caracal plan` says",
            grown / planned,
            "×",
            "0.9 to 1.1",
            0.9 <= grown / planned <= 1.1,
            detail,
        ),
    ]


def rows_of_comparison(ours: Answer, theirs: Answer, length: int) -> list[Row]:
    """Equal tokens, and the largest difference of a log-probability."""
    same = sum(one == other for one, other in zip(ours.ids, theirs.ids, strict=True))
    worst = max(abs(one - other) for one, other in zip(ours.logprobs, theirs.logprobs, strict=True))
    what = f"greedy answer to {length} tokens against transformers, fp32"
    return [
        Row(f"{what}: equal tokens", same, f"of {NEW_TOKENS}", f"= {NEW_TOKENS}", same == NEW_TOKENS),
        Row(f"{what}: largest difference of a log-probability", worst, "", f"≤ {TOLERANCE:g}", worst <= TOLERANCE),
    ]
