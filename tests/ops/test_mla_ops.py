"""mla_project, mla_attention, mla_output against fp64; bits over batches, page sizes and layouts."""

from __future__ import annotations

import random

import pytest
import torch
from caracal_kernels import MlaWeights, mla_attention, mla_output, mla_project
from caracal_kernels.mla_project import mla_project_reference
from support.op_inputs import DTYPES, EVEN, ODD, Sizes, close, i32, mla_weights, project_arguments, rand, visible_keys
from torch import Tensor


def project(s: Sizes, weights: MlaWeights, x: Tensor, positions: list[int], places: list[int]) -> list[Tensor]:
    cache = torch.full((4, 16, s.width), float("nan"), dtype=x.dtype)
    q = mla_project(x, weights, i32(positions), i32(places), cache)
    return [q, cache.view(-1, s.width)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN])
def test_project_agrees_with_the_reference(s: Sizes, dtype: torch.dtype) -> None:
    weights = mla_weights(s, dtype)
    x, positions, places = rand(9, s.hidden, dtype=dtype), list(range(5, 14)), list(range(40, 49))
    q, cache = project(s, weights, x, positions, places)
    other = torch.zeros((4, 16, s.width), dtype=dtype)
    expected = mla_project_reference(x, i32(positions), i32(places), other, *project_arguments(weights))
    close(q, expected, dtype)
    close(cache[places], other.view(-1, s.width)[places], dtype)
    written = ~cache.isnan().any(-1)
    assert written.nonzero().flatten().tolist() == places, "exactly the named places are written"


@pytest.mark.parametrize("dtype", DTYPES)
def test_projected_bits_are_the_rows_own(dtype: torch.dtype) -> None:
    random.seed(2)
    for s in (ODD, EVEN):
        weights = mla_weights(s, dtype)
        x = rand(30, s.hidden, dtype=dtype)
        alone = [project(s, weights, x[i : i + 1], [i], [i]) for i in range(30)]
        for _ in range(20):
            rows = random.sample(range(30), random.randint(1, 30))
            q, cache = project(s, weights, x[rows].contiguous(), rows, rows)
            assert all(torch.equal(q[j], alone[i][0][0]) for j, i in enumerate(rows))
            assert all(torch.equal(cache[i], alone[i][1][i]) for i in rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_without_a_place_is_projected_and_written_nowhere(dtype: torch.dtype) -> None:
    weights, x = mla_weights(ODD, dtype), rand(5, ODD.hidden, dtype=dtype)
    with_places, _ = project(ODD, weights, x, list(range(5)), list(range(5)))
    q, cache = project(ODD, weights, x, list(range(5)), [3, -1, 7, -1, -1])
    assert torch.equal(q, with_places)
    assert (~cache.isnan().any(-1)).nonzero().flatten().tolist() == [3, 7]


def paged(keys: Tensor, page_size: int) -> tuple[Tensor, Tensor]:
    """The same keys in shuffled pages of another size, unused positions poisoned."""
    needed = -(-len(keys) // page_size)
    pages = torch.randperm(needed + 3)[:needed]
    cache = torch.full((needed + 3, page_size, keys.shape[1]), float("nan"), dtype=keys.dtype)
    for i, page in enumerate(pages.tolist()):
        part = keys[i * page_size : (i + 1) * page_size]
        cache[page, : len(part)] = part
    return cache, pages.int()[None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN])
def test_attention_against_fp64_and_over_page_sizes(s: Sizes, dtype: torch.dtype) -> None:
    keys, q = rand(131, s.width, dtype=dtype), rand(131, s.heads, s.width, dtype=dtype)
    positions = torch.arange(131, dtype=torch.int32)
    seq = torch.zeros(131, dtype=torch.int32)
    answers = []
    for page_size in (16, 32, 64, 160):
        cache, table = paged(keys, page_size)
        answers.append(mla_attention(q, cache, table, seq, positions, 0.2, s.latent))
    assert all(torch.equal(answer, answers[0]) for answer in answers[1:])
    score = torch.einsum("thl,nl->thn", q.double(), keys.double()) * 0.2
    score = score.masked_fill(torch.arange(131)[None, None] > positions[:, None, None], float("-inf"))
    close(answers[0], torch.einsum("thn,nc->thc", score.softmax(-1), keys.double()[:, : s.latent]), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_bits_are_the_rows_own(dtype: torch.dtype) -> None:
    random.seed(3)
    s = ODD
    cache, table = paged(rand(100, s.width, dtype=dtype), 16)
    q = rand(40, s.heads, s.width, dtype=dtype)
    position = torch.randint(0, 100, (40,), dtype=torch.int32)
    zero = torch.zeros(40, dtype=torch.int32)
    alone = torch.cat(
        [mla_attention(q[i : i + 1], cache, table, zero[:1], position[i : i + 1], 0.3, s.latent) for i in range(40)]
    )
    for _ in range(40):
        rows = torch.tensor(random.sample(range(40), random.randint(1, 40)))
        batch = mla_attention(q[rows].contiguous(), cache, table, zero[rows], position[rows], 0.3, s.latent)
        assert torch.equal(batch, alone[rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparse", [(1, 2), (2, 1), (1, 4)])
def test_sparse_attention_reads_the_first_and_the_last_blocks_only(sparse: tuple[int, int], dtype: torch.dtype) -> None:
    """Runs of positions and single ones, in pages that do and do not divide a block; a row's bits are its own."""
    s, length = ODD, 700
    keys = rand(length, s.width, dtype=dtype)
    several = [0, 5, *range(110, 150), 255, 256, *range(376, 392), 511, 512, 639, 640, 699]
    positions = torch.tensor(several, dtype=torch.int32)
    q, seq = rand(len(positions), s.heads, s.width, dtype=dtype), torch.zeros_like(positions)
    answers = []
    for page_size in (16, 48, 64):
        cache, table = paged(keys, page_size)
        answers.append(mla_attention(q, cache, table, seq, positions, 0.2, s.latent, *sparse))
    assert all(torch.equal(answer, answers[0]) for answer in answers[1:])
    one = [
        mla_attention(q[i : i + 1], cache, table, seq[:1], positions[i : i + 1], 0.2, s.latent, *sparse)
        for i in range(len(positions))
    ]
    assert torch.equal(torch.cat(one), answers[0])
    for i, position in enumerate(positions.tolist()):
        seen = keys[visible_keys(position, *sparse)].double()
        exact = (torch.einsum("hl,nl->hn", q[i].double(), seen) * 0.2).softmax(-1) @ seen[:, : s.latent]
        close(answers[0][i], exact, dtype)
    last = int(positions[-1])
    gone = table[0, 400 // 64] if 400 not in visible_keys(last, *sparse).tolist() else -1
    if gone >= 0:
        cache[gone] = float("nan")
        again = mla_attention(q[-1:], cache, table, seq[:1], positions[-1:], 0.2, s.latent, *sparse)
        assert torch.equal(again[0], answers[0][-1])


@pytest.mark.compiled
def test_sparse_attention_without_a_first_block_is_refused() -> None:
    cache, table = paged(rand(20, ODD.width), 16)
    with pytest.raises(RuntimeError, match="sink_blocks 0 and recent_blocks 2"):
        mla_attention(rand(1, ODD.heads, ODD.width), cache, table, i32([0]), i32([3]), 0.2, ODD.latent, 0, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN])
@pytest.mark.parametrize("threads", [1, 3])
def test_attention_bits_in_runs_of_consecutive_positions(s: Sizes, dtype: torch.dtype, threads: int) -> None:
    """Consecutive queries of a sequence read each block of keys together, cut wherever a chunk or a sequence ends."""
    random.seed(4)
    keys = rand(2 * 112, s.width, dtype=dtype)
    cache, table = paged(keys, 16)
    tables, q = table.view(2, 7), rand(2, 110, s.heads, s.width, dtype=dtype)

    def attend(rows: list[tuple[int, int]]) -> Tensor:
        seq, position = (i32(list(each)) for each in zip(*rows, strict=True))
        q_rows = q[seq.long(), position.long()].contiguous()
        return mla_attention(q_rows, cache, tables, seq, position, 0.3, s.latent)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = torch.stack([torch.cat([attend([(seq, at)]) for at in range(110)]) for seq in range(2)])
        for _ in range(30):
            rows: list[tuple[int, int]] = []
            while not rows or random.random() < 0.7:
                seq, start = random.randrange(2), random.randrange(110)
                rows += [(seq, at) for at in range(start, min(110, start + random.randint(1, 60)))]
            assert torch.equal(attend(rows), torch.stack([alone[seq, at] for seq, at in rows]))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores_do_not_overflow(dtype: torch.dtype) -> None:
    keys = rand(50, ODD.width, dtype=dtype, scale=30)
    q = rand(1, ODD.heads, ODD.width, dtype=dtype, scale=30)
    cache, table = paged(keys, 16)
    out = mla_attention(q, cache, table, i32([0]), i32([49]), 1.0, ODD.latent)
    best = torch.einsum("thl,nl->thn", q.double(), keys.double()).argmax(-1)[0]
    close(out[0], keys[best][:, : ODD.latent], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN])
def test_output(s: Sizes, dtype: torch.dtype) -> None:
    o, residual = rand(13, s.heads, s.latent, dtype=dtype), rand(13, s.hidden, dtype=dtype)
    w_uv = rand(s.heads, s.value, s.latent, dtype=dtype, scale=s.latent**-0.5)
    o_proj = rand(s.hidden, s.heads * s.value, dtype=dtype, scale=0.1)
    out = mla_output(o, w_uv, o_proj, residual)
    values = torch.einsum("thc,hvc->thv", o.double(), w_uv.double()).flatten(1)
    close(out, residual.double() + values @ o_proj.double().T, dtype)
    for i in range(13):
        assert torch.equal(mla_output(o[i : i + 1], w_uv, o_proj, residual[i : i + 1])[0], out[i])


@pytest.mark.compiled
def test_bad_indices_are_named() -> None:
    s = ODD
    q, cache = rand(1, s.heads, s.width), rand(2, 16, s.width)
    for table, seq, position, culprit in [
        ([[0, 5]], [0], [20], "page_table"),
        ([[0]], [1], [3], "seq"),
        ([[0]], [0], [16], "positions"),
    ]:
        with pytest.raises(RuntimeError, match=f"mla_attention: {culprit}"):
            mla_attention(q, cache, i32(table), i32(seq), i32(position), 0.2, s.latent)
    with pytest.raises(RuntimeError, match="mla_project: slot_mapping"):
        mla_project(rand(1, s.hidden), mla_weights(s, torch.float32), i32([0]), i32([32]), cache)
