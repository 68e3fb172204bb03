"""The ids that n-grams reach: derived from the sequence alone, whatever the chunk."""

from random import Random

import numpy as np

from services.attention_worker.engine.ngram_context import context_of
from services.checkpoint.ngram import NgramConfig


def test_any_chunk_gives_each_position_its_own_context() -> None:
    rng = Random(4)
    for _ in range(300):
        neighbours = rng.randint(2, 6)
        config = NgramConfig(
            neighbours=neighbours, splits=1, base_rows=100, vocab_size=50, width=4, boundary_ids=(2, 7)
        )
        ids = [rng.choice((2, 7, *range(10, 20))) for _ in range(rng.randint(1, 30))]
        start = rng.randrange(len(ids))
        length = rng.randint(1, len(ids) - start)
        found = context_of(config, ids, start, length)
        expected = []
        for at in range(start, start + length):
            ends = [i for i in range(at) if ids[i] in (2, 7)]
            first = ends[-1] + 1 if ends else 0
            expected.append([ids[at], *(ids[at - j] if at - j >= first else 0 for j in range(1, neighbours))])
        assert np.array_equal(found, expected), (ids, start, length)
