"""What the MTP module learns from: dialogues that end with an answer of the trunk's own.

Legend: T tokens of all groups, A places whose next token is an answer's, V vocabulary.
"""

from __future__ import annotations

from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.data.batches import Batch, Encoded, batch_of, encode
from training.data.dialogues import Dialogue
from training.model.longcat_flash import LongcatFlash
from training.mtp.answers import LIMIT, Answer, complete
from training.recipe import MtpRecipe


def spans(answer: list[bool]) -> list[tuple[int, int]]:
    """Returns where the answers of an encoded dialogue begin and end."""
    edges = [i for i, (one, other) in enumerate(zip([False, *answer], [*answer, False], strict=True)) if one != other]
    return list(zip(edges[::2], edges[1::2], strict=True))


def asked(encoded: Encoded, number: int, seed: int, temperature: float, limit: int = LIMIT) -> Answer:
    """Returns answer `number` as one to be given by the trunk; the expected answer is the first guess."""
    ids, answer = encoded
    begin, end = spans(answer)[number]
    return Answer(ids[:begin], ids[begin : min(end, begin + limit)], seed, temperature, limit)


def own_batch(
    trunk: LongcatFlash, tokenizer: Tokenizer, dialogues: list[Dialogue], rng: Random, recipe: MtpRecipe
) -> Batch:
    """Cuts each dialogue behind one of its answers, which the trunk gives anew: half of them greedy, half sampled."""
    encoded = [encode(tokenizer, dialogue) for dialogue in dialogues]
    answers = [
        asked(one, rng.randrange(len(spans(one[1]))), rng.getrandbits(62), rng.choice((0.0, 1.0)), recipe.answer_tokens)
        for one in encoded
    ]
    complete(trunk, answers, recipe.groups)
    cut = [
        (answer.prompt + answer.ids, wanted[: len(answer.prompt)] + [True] * len(answer.ids))
        for answer, (_, wanted) in zip(answers, encoded, strict=True)
    ]
    return batch_of(cut, recipe.groups)


def ordinals(wanted_A: Tensor) -> Tensor:
    """[A]: the number of each place's token in its answer, from 0. Draft n of a pass can be at places from n on."""
    number_A = torch.arange(len(wanted_A))
    first_A = torch.ones(len(wanted_A), dtype=torch.bool)
    first_A[1:] = wanted_A[1:] != wanted_A[:-1] + 1
    return number_A - torch.where(first_A, number_A, 0).cummax(0).values
