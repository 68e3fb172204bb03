"""llama.cpp's low-level API: prompts of several sequences, then one token of each per step, in one batch.

Ids are random and nothing is sampled, as in llama.cpp's own llama-batched-bench.
"""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp as llama

FLASH_ATTENTION = {
    "auto": llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
CELLS = 32  # llama.cpp's caches are multiples of so many positions
UBATCH = 512  # tokens of one pass, its default


class LlamaFailed(RuntimeError):
    """llama.cpp did not take the file, the settings or a batch."""


class Options(NamedTuple):
    """Settings of a context that may be chosen. `unified`: one cache for all sequences instead of one for each."""

    flash_attention: str
    unified: bool

    def __str__(self) -> str:
        return f"flash attention {self.flash_attention}, {'one cache' if self.unified else 'a cache per sequence'}"


class Speed(NamedTuple):
    """Seconds of the prompts together, and of all steps after them."""

    prompt_s: float
    decode_s: float


class Model:
    """A model file in memory."""

    def __init__(self, path: Path) -> None:
        """Raises LlamaFailed."""
        self._quiet = llama.llama_log_callback(lambda level, text, user: None)  # kept: C holds its address
        llama.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.handle: Any = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self.handle:
            raise LlamaFailed(f"llama.cpp does not load {path}")
        self.vocabulary: int = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.handle))


class Decoder:
    """A context for so many sequences of at most `length` tokens. Close it."""

    def __init__(self, model: Model, streams: int, length: int, threads: int, options: Options) -> None:
        """Raises LlamaFailed."""
        self._model, self._streams = model, streams
        params = llama.llama_context_default_params()
        params.n_ctx = streams * -(-length // CELLS) * CELLS
        params.n_batch = max(2048, streams * length)
        params.n_ubatch = UBATCH
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
        params.kv_unified = options.unified
        self._context: Any = llama.llama_init_from_model(model.handle, params)
        if not self._context:
            raise LlamaFailed(f"llama.cpp makes no context for {streams} sequences with {options}")
        self._batch: Any = llama.llama_batch_init(streams * length, 0, 1)

    def run(self, prompts: Sequence[Sequence[int]], steps: int) -> Speed:
        """Computes the prompts in one batch, then `steps` times one token of each. Raises LlamaFailed."""
        assert len(prompts) == self._streams
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        rng = random.Random(0)
        began = time.perf_counter()
        self._decode(
            [
                (token, position, sequence, position == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts)
                for position, token in enumerate(prompt)
            ]
        )
        prompted = time.perf_counter()
        for step in range(steps):
            self._decode(
                [
                    (rng.randrange(self._model.vocabulary), len(prompt) + step, sequence, True)
                    for sequence, prompt in enumerate(prompts)
                ]
            )
        return Speed(prompted - began, time.perf_counter() - prompted)

    def close(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)

    def _decode(self, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        """Runs one batch of (id, position, sequence, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = wanted
        if code := llama.llama_decode(self._context, batch):
            raise LlamaFailed(f"llama_decode returned {code} for a batch of {len(tokens)} tokens")
        llama.llama_synchronize(self._context)


def about() -> dict[str, str]:
    """Versions, and what the library was compiled for."""
    folder = Path(llama.llama_cpp._lib._name).parent
    longest = (max(folder.glob(f"{name}.so*"), key=lambda path: len(path.name)) for name in ("libllama", "libggml"))
    return {
        "llama-cpp-python": str(llama.__version__),
        "with": ", ".join(path.name for path in longest),
        "compiled for": llama.llama_print_system_info().decode().strip(" |"),
    }
