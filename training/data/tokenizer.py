"""Trains the byte-level BPE tokenizer on the dialogues; every digit is a token of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from training.data.chat import FIXED, segments
from training.data.dialogues import Dialogue, dialogues

UNK, BOS, EOS, PAD = range(4)
# Tokens around a text are special; those inside a reply are not, because decoders may drop special tokens.
FRAME = ("<longcat_unk>", "<longcat_s>", "</longcat_s>", "<longcat_pad>")
MARKS = ("<longcat_tool_call>", "</longcat_tool_call>", "<longcat_think>", "</longcat_think>")
SPLIT_PATTERN = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The same with the marks of JSON between its words, and the white space around them, as one piece.
COMPACT_PATTERN = SPLIT_PATTERN.replace("|", r"|[\s:,]*[\"{}\[\]\n][\s\"{}\[\]:,]*|", 1)


@cache
def train_tokenizer(
    seed: int,
    vocab_size: int,
    sample: int,
    source: Callable[[int, int, int], Iterable[Dialogue]] = dialogues,
    compact: bool = False,
) -> Tokenizer:
    """Returns a BPE with LongCat's special tokens at ids 0, 1, 2, ... Equal seeds give equal tokenizers.

    It is trained on the first `sample` dialogues of the seed's stream in `source`. `compact`: what the chat template
    writes around every text is a token each, and so are runs of JSON's marks; a declared tool takes a third of the
    tokens.
    """
    tokenizer = Tokenizer(BPE())
    split = Split(Regex(COMPACT_PATTERN if compact else SPLIT_PATTERN), behavior="isolated")
    fixed = FIXED if compact else ()
    tokenizer.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(fixed),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in FRAME]
        + [AddedToken(t, special=False, normalized=False) for t in MARKS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    texts: Iterable[str] = ("".join(text for text, _ in segments(d)) for d in source(seed, 0, sample))
    if compact:  # the trainer would make these texts again, of its own pieces
        whole = re.compile("|".join(map(re.escape, sorted((*FRAME, *MARKS, *fixed), key=len, reverse=True))))
        texts = (part for text in texts for part in whole.split(text))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in fixed])
    return tokenizer
