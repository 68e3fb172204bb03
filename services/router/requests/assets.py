"""Loads what the gateway needs of a checkpoint directory: tokenizer, chat templates, sizes. No weights, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from services.checkpoint.config import DEFAULT_EOS_ID
from services.checkpoint.tokenizer_file import BadTokenizer, read_tokenizer
from services.checkpoint.vocabulary import Vocabulary
from services.router.requests.added_tokens import check_added_tokens
from services.router.requests.generation_config import FILE as GENERATION_CONFIG
from services.router.requests.generation_config import GenerationConfig, token_ids
from services.router.requests.model_files import AssetError, read_json
from services.router.requests.prompt_encoder import PromptEncoder, control_tokens
from services.router.requests.template import ChatTemplates
from services.router.requests.template_files import read_special_tokens, read_templates


@dataclass(frozen=True)
class ModelAssets:
    """The served model's tokenizer, chat templates, sizes and generation_config.json."""

    name: str
    directory: Path
    tokenizer: Tokenizer
    prompts: PromptEncoder
    vocabulary: Vocabulary
    templates: ChatTemplates | None
    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]  # end an answer: those of config.json and of generation_config.json
    worker_eos_ids: frozenset[int]  # those that workers know, from config.json
    generation: GenerationConfig

    @classmethod
    def load(cls, path: Path, name: str, *, sampling_defaults: bool = True) -> ModelAssets:
        """Reads a Hugging Face-layout directory. Raises AssetError naming the file."""
        config = read_json(path / "config.json")
        raw = read_json(path / "tokenizer.json")
        tokenizer = _tokenizer(path / "tokenizer.json")
        vocabulary = Vocabulary(tokenizer, raw)
        vocab_size = _positive(config, "vocab_size", path)
        if vocabulary.size > vocab_size:
            raise AssetError(
                f"{path / 'tokenizer.json'}: it has token ids up to {vocabulary.size - 1},"
                f" but vocab_size in config.json is {vocab_size}"
            )
        check_added_tokens(path, tokenizer.get_vocab(with_added_tokens=True))
        templates = read_templates(path)
        own = "\n".join(template.text for template in templates.named.values()) if templates else ""
        control = control_tokens(raw, own, read_special_tokens(path).values())
        eos = config.get("eos_token_id")
        worker_eos_ids = token_ids(DEFAULT_EOS_ID if eos is None else eos, f"{path / 'config.json'}: eos_token_id")
        generation = GenerationConfig.read(path, with_defaults=sampling_defaults)
        outside = [one for one in generation.eos_ids if one >= vocab_size]
        if outside:
            raise AssetError(
                f"{path / GENERATION_CONFIG}: eos_token_id: {outside[0]} lies outside the vocabulary of {vocab_size}"
            )
        return cls(
            name=name,
            directory=path,
            tokenizer=tokenizer,
            prompts=PromptEncoder(tokenizer, raw, control),
            vocabulary=vocabulary,
            templates=templates,
            vocab_size=vocab_size,
            max_model_len=_positive(config, "max_position_embeddings", path),
            eos_ids=worker_eos_ids | generation.eos_ids,
            worker_eos_ids=worker_eos_ids,
            generation=generation,
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns the ids of a raw prompt; texts of control tokens in it become control tokens."""
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


def _positive(config: dict[str, Any], field: str, path: Path) -> int:
    value = config.get(field)
    if not isinstance(value, int) or value <= 0:
        raise AssetError(f"{path / 'config.json'}: {field} must be a positive integer, not {value!r}")
    return value


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return read_tokenizer(path)
    except BadTokenizer as error:
        raise AssetError(f"{path}: {error}") from None
