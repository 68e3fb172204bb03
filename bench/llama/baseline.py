"""The baseline llama.cpp: `python -m bench.llama.baseline TWIN.gguf THREADS`, for the interpreter that has llama_cpp.

Writes a line with its version when it is ready, then reads lines of `{"prompts": [[id, ...], ...], "new_tokens": n}`
and answers `{"tokens": n, "seconds": s, "inter_token_s": s, "settings": text}`. The first time that it gets a number of
prompts it tries its settings, each a few times, and keeps the fastest.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from bench.llama.decoder import FLASH_ATTENTION, Decoder, LlamaFailed, Model, Options, about

TRIAL_STEPS, TRIALS = 16, 3
CANDIDATES = [Options(flash, unified) for flash, unified in product(FLASH_ATTENTION, (False, True))]


def fastest(model: Model, prompts: Sequence[Sequence[int]], length: int, threads: int) -> tuple[Options, Decoder]:
    """Returns the best settings for these prompts and a decoder with them. Raises LlamaFailed when none works."""
    decoders: dict[Options, Decoder] = {}
    failures = []
    for options in CANDIDATES:
        try:
            decoders[options] = Decoder(model, len(prompts), length, threads, options)
        except LlamaFailed as error:
            failures.append(str(error))
    if not decoders:
        raise LlamaFailed("; ".join(failures))
    seconds: dict[Options, list[float]] = {options: [] for options in decoders}
    for _ in range(TRIALS):
        for options, decoder in decoders.items():
            seconds[options].append(decoder.run(prompts, TRIAL_STEPS).decode_s)
    best = min(seconds, key=lambda options: statistics.median(seconds[options]))
    for options, decoder in decoders.items():
        if options != best:
            decoder.close()
    return best, decoders[best]


def main() -> None:
    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    model = Model(path)
    chosen: dict[int, tuple[Options, Decoder]] = {}
    print(json.dumps(about()), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        prompts, new_tokens = job["prompts"], job["new_tokens"]
        length = len(prompts[0]) + new_tokens
        if len(prompts) not in chosen:
            chosen[len(prompts)] = fastest(model, prompts, length, threads)
        options, decoder = chosen[len(prompts)]
        steps = new_tokens - 1  # the prompt's last logits give the first token
        speed = decoder.run(prompts, steps)
        answer = {
            "tokens": len(prompts) * new_tokens,
            "seconds": speed.prompt_s + speed.decode_s,
            "inter_token_s": speed.decode_s / steps,
            "settings": str(options),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
