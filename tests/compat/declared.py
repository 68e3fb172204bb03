"""The clients of docs/compatibility.md and the features that their modules declare, read without importing them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from compat.features import FEATURES

FOLDER = Path(__file__).parent
REPO = FOLDER.parents[1]


@dataclass(frozen=True)
class Client:
    title: str  # its row's first cell
    package: str  # by which its registry knows it, and whose version is shown
    module: str  # under clients/, with its ending
    more: tuple[str, ...] = ()  # further requirements of its virtual environment
    needs_torch: bool = False

    @property
    def path(self) -> Path:
        return FOLDER / "clients" / self.module

    @property
    def name(self) -> str:
        """Of its virtual environment."""
        return self.path.stem

    @property
    def is_node(self) -> bool:
        return self.path.suffix == ".mjs"

    def features(self) -> list[str]:
        """What its module has a function for, in the order of `FEATURES`."""
        text = self.path.read_text()
        if self.is_node:
            found = set(re.findall(r"^export async function (\w+)\(", text, re.M))
        else:
            found = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
        return [feature for feature in FEATURES if feature in found]


CLIENTS = (
    Client("openai (Python)", "openai", "openai_python.py"),
    Client("anthropic (Python)", "anthropic", "anthropic_python.py"),
    Client("litellm", "litellm", "litellm_python.py"),
    Client("langchain-openai", "langchain-openai", "langchain_openai_python.py"),
    Client("instructor", "instructor", "instructor_python.py"),
    Client("pydantic-ai", "pydantic-ai-slim", "pydantic_ai_python.py", ("openai",)),
    Client("openai (Node)", "openai", "openai_node.mjs"),
    Client("Vercel AI SDK", "ai", "ai_sdk_node.mjs"),
    Client("llama-index", "llama-index-llms-openai-like", "llama_index_python.py"),
    Client("lm-eval", "lm-eval", "lm_eval_python.py", ("transformers",), needs_torch=True),
    Client("DSPy", "dspy", "dspy_python.py"),
    Client("smolagents", "smolagents", "smolagents_python.py"),
    Client("guidellm", "guidellm", "guidellm_python.py", needs_torch=True),
    Client("aiperf", "aiperf", "aiperf_python.py"),
)
