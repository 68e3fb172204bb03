"""Tokenizers with byte fallback: a character that has no token is written as `<0xNN>` tokens, one for each byte."""

from __future__ import annotations

from support.gateway_assets import SPECIAL, TAGS
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence, Strip
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend
from tokenizers.normalizers import Replace as ReplaceNormalizer
from tokenizers.normalizers import Sequence as NormalizerSequence

WORDS = ["▁the", "▁is", "in", "▁▁", "猫", "<0xZZ>", "<0x41", "é"]


def byte_fallback_tokenizer(*, strip: bool = True) -> Tokenizer:
    """Returns a tokenizer in Llama's form, or in Gemma's, which takes no space off the beginning of a text."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127)), *WORDS]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL[0], byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = NormalizerSequence([Prepend("▁"), ReplaceNormalizer(" ", "▁")])
    parts = [Replace("▁", " "), ByteFallback(), Fuse()]
    tokenizer.decoder = Sequence([*parts, Strip(" ", 1, 0)] if strip else parts)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*TAGS, "▁odd▁", "ça", "→")])
    return tokenizer
