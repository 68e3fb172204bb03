"""What `caracal bench serve` sends, how fast, and what it reports. Names and defaults are `vllm bench serve`'s."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS = ("ttft", "tpot", "itl", "e2el")
GOODPUT = ("ttft", "tpot", "e2el")
DATASETS = ("random", "sharegpt", "custom")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BACKENDS = {"openai": COMPLETIONS, "vllm": COMPLETIONS, "openai-chat": CHAT}


HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class BadOption(ValueError):
    """An option that cannot be used. One line that begins with its name."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where prompts come from. Lengths are in tokens; `output_len` None = what the dataset says, or its default."""

    name: str = "random"
    path: Path | None = None
    num_prompts: int = 1000
    input_len: int = 1024
    output_len: int | None = None
    range_ratio: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise BadOption(f"--dataset-name is {self.name!r}: must be {', '.join(DATASETS[:-1])} or {DATASETS[-1]}")
        if self.name == "random" and self.path:
            raise BadOption("--dataset-path goes with --dataset-name sharegpt or custom")
        if self.name != "random" and not self.path:
            raise BadOption(f"--dataset-name {self.name} needs --dataset-path")
        if not 0 <= self.range_ratio < 1:
            raise BadOption(f"--random-range-ratio is {self.range_ratio:g}: must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests: where to, how many at once or per second, and with which fields. `rate`: requests per second."""

    base_url: str
    endpoint: str = COMPLETIONS
    model: str = ""
    api_key: str = field(default="", repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: dict[str, Any] = field(default_factory=dict)  # further fields of every request
    max_concurrency: int | None = None
    rate: float = math.inf
    burstiness: float = 1.0
    warmups: int = 1
    timeout_s: float = 6 * 3600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.endpoint.endswith("/completions"):
            raise BadOption(f"--endpoint is {self.endpoint!r}: must end in {COMPLETIONS} or {CHAT}")
        if not self.rate > 0:
            raise BadOption(f"--request-rate is {self.rate:g}: must be above 0")
        if not self.burstiness > 0:
            raise BadOption(f"--burstiness is {self.burstiness:g}: must be above 0")

    @property
    def chat(self) -> bool:
        return self.endpoint.endswith("/chat/completions")


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Which metrics get percentiles, which percentiles, and the objectives of goodput in milliseconds."""

    metrics: tuple[str, ...] = ("ttft", "tpot", "itl", "e2el")
    percentiles: tuple[float, ...] = (99.0,)
    goodput: dict[str, float] = field(default_factory=dict)


def parse_metrics(text: str) -> tuple[str, ...]:
    """Parses "ttft,itl". Raises BadOption."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if unknown := [name for name in found if name not in METRICS]:
        raise BadOption(f"--percentile-metrics: {unknown[0]!r} is none of {', '.join(METRICS)}")
    return found


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Parses "50,99.9". Raises BadOption."""
    found = tuple(_number("--metric-percentiles", part) for part in text.split(",") if part.strip())
    if wrong := [value for value in found if not 0 <= value <= 100]:
        raise BadOption(f"--metric-percentiles: {wrong[0]:g} is not from 0 to 100")
    return found


def parse_goodput(words: Sequence[str]) -> dict[str, float]:
    """Parses ["ttft:200", "tpot:50"], in milliseconds. Raises BadOption."""
    found: dict[str, float] = {}
    for word in words:
        name, colon, number = word.partition(":")
        if name not in GOODPUT or not colon:
            raise BadOption(f"--goodput: {word!r} is not METRIC:MILLISECONDS with one of {', '.join(GOODPUT)}")
        found[name] = _number("--goodput", number)
        if not found[name] >= 0:
            raise BadOption(f"--goodput: {word!r} is not from 0")
    return found


def parse_assignments(name: str, words: Sequence[str]) -> dict[str, str]:
    """Parses ["key=value"] of the option `name`. Raises BadOption."""
    if wrong := [word for word in words if not word.partition("=")[1]]:
        raise BadOption(f"{name}: {wrong[0]!r} is not KEY=VALUE")
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def parse_headers(words: Sequence[str]) -> dict[str, str]:
    """Parses ["key=value"] of --header. Raises BadOption."""
    found = parse_assignments("--header", words)
    for name, value in found.items():
        if not HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise BadOption(f"--header: {name[:40]!r} is no header that HTTP can have")
    return found


def parse_body(text: str) -> dict[str, Any]:
    """Parses the JSON object of --extra-body. Raises BadOption."""
    try:
        found = json.loads(text or "{}", parse_constant=_no_number)
    except ValueError as error:
        raise BadOption(f"--extra-body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadOption("--extra-body is not a JSON object")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadOption(f"{name}: {text!r} is not a number") from None
