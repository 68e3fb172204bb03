"""A byte-level vocabulary whose ids 0 to 255 are the bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from services.checkpoint.token_bytes import ByteRules
from services.checkpoint.vocabulary import Vocabulary


def byte_vocabulary(added: Mapping[int, str] | None = None) -> Vocabulary:
    """`added`: tokens of their own text, by id."""
    rules = ByteRules(byte_level=True)
    vocab = {char: rules.token_bytes(char)[0] for char in ByteLevel.alphabet()}
    raw = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": id,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
            for id, text in (added or {}).items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "truncation": None,
        "padding": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    return Vocabulary(Tokenizer.from_str(json.dumps(raw)), raw)
