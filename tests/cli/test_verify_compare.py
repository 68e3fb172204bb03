"""What `caracal verify` finds in one request, and how it names a layer; without a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from caracal_proto import attention_pb2

from services.cli.verify.compare import Comparison, ScoreComparison
from services.cli.verify.layers import Located, first_difference
from services.cli.verify.replay import Rows
from services.router.recording.lines import Recorded, Scored

FIRST = Scored(-0.5, ((10, -0.5),))
RECORDED = Recorded(
    request_id="r",
    prompt_ids=[1, 2, 3],
    sampling=attention_pb2.Sampling(),
    ids=[10, 11, 12],
    checksums=[100, 101, 102],
    logprobs=[FIRST, Scored(-0.25, ((11, -0.25),)), Scored(-1.0, ((9, -0.75),))],
    prompt_logprobs=[Scored(-2.0, (), 2), Scored(-4.0, (), 3)],
    ending="stop",
    finish_reason="stop",
    stop_id=12,
)


def tokens() -> list[attention_pb2.Token]:
    return [
        attention_pb2.Token(
            index=index,
            id=RECORDED.ids[index],
            logits_checksum=RECORDED.checksums[index],
            logprob=one.logprob,
            top=[attention_pb2.TopLogprob(id=id, logprob=logprob) for id, logprob in one.top],
        )
        for index, one in enumerate(RECORDED.logprobs or ())
    ]


def prompt() -> list[attention_pb2.Token]:
    return [attention_pb2.Token(logprob=one.logprob, rank=one.rank) for one in RECORDED.prompt_logprobs or ()]


def compared(recorded: Recorded = RECORDED, *, reason: str = "stop", stop_id: int | None = 12, cut: int = 3) -> str:
    """The difference in words; empty when there is none."""
    comparison = Comparison(recorded)
    comparison.take([], prompt())
    for token in tokens()[:cut]:
        comparison.take([token])
    comparison.take([], [], reason, stop_id)
    return comparison.difference.words(len(recorded.prompt_ids)) if comparison.difference else ""


def test_the_same() -> None:
    assert compared() == ""


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"checksums": [100, 1, 102]}, "token 1 of the answer (position 4): logits 00000065, recorded 00000001"),
        ({"ids": [10, 11, 13]}, "token 2 of the answer (position 5): token 12, recorded 13"),
        ({"ids": [10, 11], "checksums": [100, 101]}, "(position 5): length more, recorded 2 tokens"),
        ({"stop_id": None}, "token 3 of the answer (position 6): ending stop (id 12), recorded stop"),
        ({"logprobs": [FIRST, Scored(-0.125, ((11, -0.25),)), FIRST]}, "(position 4): log-probability be800000, rec"),
        ({"logprobs": [Scored(-0.5, ((11, -0.5),))] * 3}, "log-probability id 10 bf000000, recorded id 11 bf000000"),
        ({"prompt_logprobs": [Scored(-2.0, (), 1)] * 2}, "token 1 of the prompt (position 1): log-probability rank 2"),
        ({"prompt_logprobs": [Scored(-2.0, (), 2)]}, "(position 2): length more, recorded 1 scores"),
        ({"prompt_logprobs": [Scored(-2.0, (), 2), Scored(-4.0, (), 3)] * 2}, "length 2 scores, recorded 4 scores"),
    ],
)  # fmt: skip
def test_the_first_difference_is_named(recorded: dict[str, object], words: str) -> None:
    assert words in compared(replace(RECORDED, **recorded))  # type: ignore[arg-type]


def test_an_answer_that_ends_too_early_differs() -> None:
    assert "length 2 tokens, recorded 3 tokens" in compared(cut=2)


def test_of_an_answer_that_its_client_ended_the_tokens_are_compared_and_not_the_end() -> None:
    cut = replace(RECORDED, finish_reason="", stop_id=None, ids=[10, 11], checksums=[100, 101], logprobs=None)
    comparison = Comparison(cut)
    comparison.take(tokens(), prompt())
    assert comparison.done
    assert (comparison.difference, comparison.tokens) == (None, 2)


def test_scores_of_an_answer_are_found_behind_its_prompt() -> None:
    scored = [attention_pb2.Token(logprob=value, rank=1) for value in (-9.0, -8.0, -0.5, -0.25, -1.0)]
    same = ScoreComparison(RECORDED)
    same.take(scored[:3])
    same.take(scored[3:])
    assert (same.tokens, same.difference) == (3, None)
    scored[3].logprob = -0.25000003
    other = ScoreComparison(RECORDED)
    other.take(scored)
    assert other.difference is not None
    assert (other.tokens, other.difference.token) == (1, 1)


def test_the_lowest_layer_counts_and_then_the_first_position() -> None:
    rows: Rows = {0: (1, 2, 3), 1: (4, 5, 6), 2: (7, 8, 9)}
    assert first_difference(rows, rows) is None
    assert first_difference(rows, rows | {0: (1, 2, 0), 2: (7, 0, 0)}) == (1, 2)
    assert first_difference(rows, rows | {1: (0, 5, 6)}) == (0, 1)


def test_what_was_located_in_words() -> None:
    found = Located(number=8, position=3, logits=True, same=False, reference_same=True)
    assert found.words == "first differs at layer 7 (at position 3)"
    assert found.values["layer"] == 7
    assert replace(found, number=0).words == "first differs at the embedding (at position 3)"
    assert "the head" in replace(found, number=None).words
    assert "the cache" in replace(found, number=None, logits=False, same=True).words
    assert "no layer can be named" in replace(found, reference_same=False).words
