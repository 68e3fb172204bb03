"""Times of messages, shared by the processes of one run: a token's text names the slot with the time it was sent at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SLOTS = 8192  # more than messages in any few seconds
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
FIRST_ID = len(SPECIAL) + 256  # of the tokens that name slots
DIGITS = 4
MODEL = "caracal-bench"


def slot_times(file: Path, *, create: bool = False) -> NDArray[np.float64]:
    """The monotonic time of each slot, in a file that all processes map."""
    return np.memmap(file, np.float64, "w+" if create else "r+", shape=(SLOTS,))


def write_model(folder: Path) -> Path:
    """Writes what a gateway reads of a model: a token for each slot, ` 0000` and so on, beside one for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*SPECIAL, *alphabet, *(f"Ġ{slot:0{DIGITS}d}" for slot in range(SLOTS))]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"vocab_size": len(texts), "max_position_embeddings": 1 << 20, "bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder
