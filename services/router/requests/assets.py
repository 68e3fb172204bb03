"""Loads what the gateway needs of a checkpoint directory: tokenizer, chat template, sizes. No weights, no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from services.router.requests.detokenizer import Vocabulary
from services.router.requests.template import ChatTemplate, Segment


class AssetError(ValueError):
    """Expected: a file of the checkpoint directory is missing or wrong; the one-line message names it."""


@dataclass(frozen=True)
class ModelAssets:
    """The served model's tokenizer, chat template and sizes."""

    name: str
    tokenizer: Tokenizer
    plain_tokenizer: Tokenizer  # encodes the texts of control tokens as plain text
    vocabulary: Vocabulary
    template: ChatTemplate | None
    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]

    @classmethod
    def load(cls, path: Path, name: str) -> ModelAssets:
        """Reads a Hugging Face-layout directory. Raises AssetError naming the file."""
        config = _read_json(path / "config.json")
        raw = _read_json(path / "tokenizer.json")
        tokenizer = _tokenizer(path / "tokenizer.json")
        plain = _tokenizer(path / "tokenizer.json")
        plain.encode_special_tokens = True
        vocabulary = Vocabulary(tokenizer, raw)
        return cls(
            name=name,
            tokenizer=tokenizer,
            plain_tokenizer=plain,
            vocabulary=vocabulary,
            template=_template(path, vocabulary),
            vocab_size=_positive(config, "vocab_size"),
            max_model_len=_positive(config, "max_position_embeddings"),
            eos_ids=_ids(config.get("eos_token_id")),
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns the ids of a raw prompt; texts of control tokens in it become control tokens."""
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_segments(self, segments: list[Segment]) -> list[int]:
        """Returns the ids of a rendered chat."""
        ids: list[int] = []
        for text, control in segments:
            tokenizer = self.tokenizer if control else self.plain_tokenizer
            ids += tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AssetError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise AssetError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise AssetError(f"{path}: not a JSON object")
    return value


def _positive(config: dict[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or value <= 0:
        raise AssetError(f"config.json: {field} must be a positive integer, not {value!r}")
    return value


def _ids(value: Any) -> frozenset[int]:
    """Returns the ids of a config.json field that has one id, a list of ids, or null."""
    return frozenset(value if isinstance(value, list) else () if value is None else (value,))


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        raise AssetError(f"{path}: {error}") from None


def _template(path: Path, vocabulary: Vocabulary) -> ChatTemplate | None:
    """Loads chat_template.jinja, or else the template in tokenizer_config.json; None when the model has none."""
    config_path, template_path = path / "tokenizer_config.json", path / "chat_template.jinja"
    config = _read_json(config_path) if config_path.exists() else {}
    source = template_path.read_text(encoding="utf-8") if template_path.exists() else config.get("chat_template")
    if isinstance(source, list):
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    if source is None:
        return None
    try:
        return ChatTemplate(
            source,
            bos_token=_token_text(config.get("bos_token")),
            eos_token=_token_text(config.get("eos_token")),
            specials=list(vocabulary.added),
        )
    except TemplateError as error:
        raise AssetError(f"{path}: chat template: {error}") from None


def _token_text(token: Any) -> str:
    """Returns the text of a token of tokenizer_config.json: a string, or an object with a `content`."""
    return token["content"] if isinstance(token, dict) else token or ""
