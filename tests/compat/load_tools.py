"""What the exercises of load generators share, in their virtual environments: both have transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compat.features import Servers
from transformers import AutoTokenizer

REQUESTS, STREAMS = 20, 4
PROMPT_TOKENS, OUTPUT_TOKENS, TOO_MANY_TOKENS = 50, 20, 5000
TOOL_S = 300


def run(tool: str, *words: str, status: int = 0, **variables: str) -> None:
    """Runs a command of this environment; what it prints goes to stderr. `status`: what it has to exit with."""
    path = Path(sys.executable).parent / tool
    done = subprocess.run([path, *words], stdout=sys.stderr, timeout=TOOL_S, check=False, env=os.environ | variables)
    assert done.returncode == status, f"{tool} exits with {done.returncode}"


class PromptTokens:
    """Counts the tokens of a request's prompt by transformers."""

    def __init__(self, servers: Servers) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(servers.model_path)

    def of(self, body: dict[str, Any]) -> int:
        """`body`: that of a request to /v1/chat/completions, /v1/responses or /v1/completions."""
        if "prompt" in body:
            return len(self._tokenizer(body["prompt"])["input_ids"])
        messages = [
            {"role": "user", "content": _text(turn["content"])} for turn in body.get("messages") or body["input"]
        ]
        return len(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def _text(content: str | Iterable[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
