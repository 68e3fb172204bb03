"""Log-probabilities of a prompt's own tokens, from the rows before them.

Legend: R scored tokens, V vocabulary, K alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from caracal_kernels import row_checks
from torch import Tensor

from services.attention_worker.engine.sampler import NonFiniteLogits
from services.attention_worker.engine.sequence import TokenOut
from services.attention_worker.engine.step_plan import Chunk


def score(logits_RV: Tensor, chunks: list[Chunk]) -> Iterator[tuple[Chunk, list[TokenOut] | NonFiniteLogits]]:
    """Yields the scores of each chunk that has any. The rows follow one another as the chunks do.

    A row's result depends on that row alone.
    """
    at = 0
    for chunk in chunks:
        places = chunk.scores if chunk.sequence.unscored else range(0)
        if places:
            yield chunk, _scores(logits_RV[at : at + len(places)], chunk, places)
            at += len(places)


def _scores(logits_RV: Tensor, chunk: Chunk, places: range) -> list[TokenOut] | NonFiniteLogits:
    if not bool(logits_RV.isfinite().all()):
        return NonFiniteLogits("the model gave logits that are not finite")
    sequence = chunk.sequence
    ids = sequence.ids[places.start : places.stop]
    logprobs_RV = torch.log_softmax(logits_RV, -1)
    picked_R1 = torch.tensor(ids, device=logits_RV.device)[:, None]
    own_R1 = logprobs_RV.gather(1, picked_R1)
    rank_R = (logprobs_RV > own_R1).sum(1) + 1
    top = torch.topk(logprobs_RV, sequence.sampling.prompt_logprobs or 0)
    checksums = row_checks(logits_RV.cpu())[0].tolist()
    rows = zip(
        checksums, own_R1[:, 0].tolist(), rank_R.tolist(), top.indices.tolist(), top.values.tolist(), strict=True
    )
    return [
        TokenOut(place, token, checksum, logprob, tuple(zip(others, values, strict=True)), rank)
        for place, token, (checksum, logprob, rank, others, values) in zip(places, ids, rows, strict=True)
    ]
