"""mla_attention in Triton: right against fp64 over splits, and a row's bits its own in prefill, chunks and decode."""

from __future__ import annotations

import random

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.triton.mla_attention import SPLIT, mla_attention_triton
from support.gpu_inputs import batch_sizes
from support.op_inputs import DEVICE, DTYPES, EVEN, ODD, Sizes, close, i32, rand, visible_keys
from support.poisoned_memory import poisoned_memory
from torch import Tensor

SCALE = 0.2
# One key, a short block, the ends of blocks and splits, three splits.
POSITIONS = [0, 5, 63, 64, SPLIT - 1, SPLIT, 2 * SPLIT - 1, 2 * SPLIT + 70]


class Sequences:
    """Keys of several sequences in shuffled pages; what nobody wrote is NaN."""

    def __init__(self, lengths: list[int], s: Sizes, dtype: torch.dtype, page_size: int = 16, spare: int = 0) -> None:
        self.keys = [rand(length, s.width, dtype=dtype) for length in lengths]
        self.latent = s.latent
        self.lay_out(page_size, spare)

    def lay_out(self, page_size: int, spare: int = 0) -> None:
        needed = [-(-len(keys) // page_size) for keys in self.keys]
        pages = torch.randperm(sum(needed) + 3).tolist()
        cache = torch.full((len(pages), page_size, self.keys[0].shape[1]), float("nan"), dtype=self.keys[0].dtype)
        table = torch.full((len(needed), max(needed) + spare), -1, dtype=torch.int32)
        for seq, keys in enumerate(self.keys):
            for x in range(needed[seq]):
                table[seq, x] = pages.pop()
                part = keys[x * page_size : (x + 1) * page_size]
                cache[table[seq, x], : len(part)] = part
        self.cache, self.table = cache.to(DEVICE), table.to(DEVICE)

    def attend(
        self,
        q: Tensor,
        seq: list[int],
        positions: list[int],
        scratch_bytes: int = 1 << 30,
        split: int = SPLIT,
        sparse: tuple[int, int] = (0, 0),
    ) -> Tensor:
        arguments = (self.cache, self.table, i32(seq).to(DEVICE), i32(positions).to(DEVICE), SCALE, self.latent)
        with poisoned_memory():
            return mla_attention_triton(q.to(DEVICE), *arguments, *sparse, scratch_bytes, split).cpu()

    def exact(self, q: Tensor, seq: list[int], positions: list[int], sparse: tuple[int, int] = (0, 0)) -> Tensor:
        rows = []
        for q_HL, s, position in zip(q.double(), seq, positions, strict=True):
            keys = self.keys[s][: position + 1].double()[visible_keys(position, *sparse)]
            rows.append(torch.softmax(q_HL @ keys.T * SCALE, -1) @ keys[:, : self.latent])
        return torch.stack(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN])
def test_agrees_with_fp64_over_splits_pages_and_room(s: Sizes, dtype: torch.dtype) -> None:
    sequences = Sequences([2 * SPLIT + 71], s, dtype)
    q, seq = rand(len(POSITIONS), s.heads, s.width, dtype=dtype), [0] * len(POSITIONS)
    answer = sequences.attend(q, seq, POSITIONS)
    close(answer, sequences.exact(q, seq, POSITIONS), dtype)
    if s is ODD:
        sequences.lay_out(page_size=48, spare=100)
        row_of_scratch = 4 * 6 * s.heads * (s.latent + 2)
        assert torch.equal(sequences.attend(q, seq, POSITIONS, 3 * row_of_scratch), answer), "groups of a few rows"


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_fp64_at_random_sizes(dtype: torch.dtype) -> None:
    random.seed(61)
    for rows in (1, *(random.randint(2, 12) for _ in range(5))):
        s = Sizes(heads=random.randint(1, 20), rope=2 * random.randint(1, 12), latent=random.randint(1, 70))
        lengths = [random.randint(1, 300) for _ in range(3)]
        sequences = Sequences(lengths, s, dtype, page_size=16 * random.randint(1, 4))
        seq = [random.randrange(3) for _ in range(rows)]
        positions = [random.randrange(lengths[one]) for one in seq]
        q = rand(rows, s.heads, s.width, dtype=dtype)
        close(sequences.attend(q, seq, positions), sequences.exact(q, seq, positions), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("split", [128, SPLIT] if DEVICE == "cuda" else [128])  # SPLIT takes the interpreter long
def test_a_wide_chunk_is_decode_row_for_row_over_the_end_of_a_split(dtype: torch.dtype, split: int) -> None:
    """40 rows of one sequence at once, and each of them alone: where splits end does not show."""
    sequences = Sequences([split + 20], ODD, dtype)
    positions = list(range(split - 20, split + 20))
    q = rand(len(positions), ODD.heads, ODD.width, dtype=dtype)
    chunk = sequences.attend(q, [0] * len(positions), positions, split=split)
    decoded = [sequences.attend(q[i : i + 1], [0], [p], split=split) for i, p in enumerate(positions)]
    assert torch.equal(chunk, torch.cat(decoded))
    assert chunk.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_are_its_own(dtype: torch.dtype) -> None:
    """Rows of prefill and decode of three sequences in many mixes; one row has two splits."""
    random.seed(3)
    sequences = Sequences([90, 40, SPLIT + 40], ODD, dtype, page_size=32)
    rows = [(0, p) for p in range(50, 66)] + [(1, 39), (2, SPLIT + 30), (2, 7)]
    q = rand(len(rows), ODD.heads, ODD.width, dtype=dtype)
    alone = torch.cat([sequences.attend(q[i : i + 1], [seq], [p]) for i, (seq, p) in enumerate(rows)])
    for size in batch_sizes([1, 2, 3, 5, 9, 14]):
        mix = random.sample(range(len(rows)), size)
        batch = sequences.attend(q[mix], [rows[i][0] for i in mix], [rows[i][1] for i in mix])
        assert torch.equal(batch, alone[mix])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_rows_read_the_first_and_the_last_blocks_only(dtype: torch.dtype) -> None:
    """Positions around the ends of blocks, rows alone and together; with splits of 128 keys a row has four."""
    lengths, sparse = [700, 90], (1, 2)
    sequences = Sequences(lengths, ODD, dtype, page_size=48)
    rows = [(1, 89), *((0, p) for p in (127, 383, 384, 699))]
    q = rand(len(rows), ODD.heads, ODD.width, dtype=dtype)
    seq, positions = (list(each) for each in zip(*rows, strict=True))
    answer = sequences.attend(q, seq, positions, split=128, sparse=sparse)
    close(answer, sequences.exact(q, seq, positions, sparse), dtype)
    alone = [sequences.attend(q[i : i + 1], [s], [p], split=128, sparse=sparse) for i, (s, p) in enumerate(rows)]
    assert torch.equal(answer, torch.cat(alone))
    sequences.cache[sequences.table[0, 400 // 48]] = float("nan")  # between the sink and the last row's window
    assert torch.equal(sequences.attend(q[-1:], [0], [699], split=128, sparse=sparse), answer[-1:])


def test_no_rows_and_many_heads() -> None:
    s = Sizes(heads=70, latent=16, rope=8)
    sequences = Sequences([20], s, torch.bfloat16)
    assert sequences.attend(rand(0, 70, 24, dtype=torch.bfloat16), [], []).shape == (0, 70, 16)
    q = rand(1, 70, 24, dtype=torch.bfloat16)
    close(sequences.attend(q, [0], [19]), sequences.exact(q, [0], [19]), torch.bfloat16)


def test_large_scores_do_not_overflow() -> None:
    sequences = Sequences([SPLIT + 50], ODD, torch.float32)
    q = rand(1, ODD.heads, ODD.width, scale=30)
    sequences.keys[0].mul_(30)
    sequences.lay_out(16)
    answer = sequences.attend(q, [0], [SPLIT + 49])
    close(answer, sequences.exact(q, [0], [SPLIT + 49]), torch.float32)


def test_what_points_outside_is_not_read_and_disturbs_nobody() -> None:
    sequences = Sequences([40, 40], ODD, torch.float32)
    q = rand(3, ODD.heads, ODD.width)
    good = sequences.attend(q[:1], [0], [39])
    sequences.table[1] = 1 << 30
    assert torch.equal(sequences.attend(q, [0, 1, 7], [39, 39, 5000])[:1], good)
