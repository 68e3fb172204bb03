"""Trains the byte-level BPE tokenizer on the dialogues; every digit is a token of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from training.data.chat import segments
from training.data.dialogues import Dialogue, dialogues

UNK, BOS, EOS, PAD = range(4)
# Tokens around a text are special; those inside a reply are not, because decoders may drop special tokens.
FRAME = ("<longcat_unk>", "<longcat_s>", "</longcat_s>", "<longcat_pad>")
MARKS = ("<longcat_tool_call>", "</longcat_tool_call>", "<longcat_think>", "</longcat_think>")
SPLIT_PATTERN = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@cache
def train_tokenizer(
    seed: int, vocab_size: int, sample: int, source: Callable[[int, int, int], Iterable[Dialogue]] = dialogues
) -> Tokenizer:
    """Returns a BPE with LongCat's special tokens at ids 0, 1, 2, ... Equal seeds give equal tokenizers.

    It is trained on the first `sample` dialogues of the seed's stream in `source`.
    """
    tokenizer = Tokenizer(BPE())
    split = Split(Regex(SPLIT_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in FRAME]
        + [AddedToken(t, special=False, normalized=False) for t in MARKS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ("".join(text for text, _ in segments(d)) for d in source(seed, 0, sample))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
