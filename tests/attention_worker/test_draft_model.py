"""The draft of multi-token prediction: its arithmetic is that of the published formulas, natively and in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.fp64_reference import Fp64Reference
from support.paged import local_dispatcher
from support.tiny_checkpoint import NGRAM, PLAIN, UNEVEN, make_checkpoint
from torch import Tensor

from services.attention_worker.model.model import Model, load_model
from services.attention_worker.model.step import Step
from services.checkpoint.reader import Checkpoint

SPARSE = PLAIN | {
    "streaming_sparse_attention": {"sink_size": 128, "recent_size": 256, "sparsity": 0.5, "layer_type": "0101"}
}
YARN = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 30, "mscale": 1, "mscale_all_dim": 1}
LITE = NGRAM | {"rope_scaling": YARN | {"beta_fast": 32, "beta_slow": 1}}
CASES = {
    "plain": PLAIN,
    "uneven": UNEVEN,
    "ngram": LITE,
    "tied": PLAIN | {"tie_word_embeddings": True},
    "sparse": SPARSE,
}
PAGE = 16


def step_of(ids: list[int], start: int, wanted: list[int], context: int = 0) -> Step:
    """The ids of one sequence whose pages lie in order."""
    positions_T = torch.arange(start, start + len(ids), dtype=torch.int32)
    pages = torch.arange(32, dtype=torch.int32)[None]
    return Step(
        number=1,
        ids_T=torch.tensor(ids),
        positions_T=positions_T,
        seq_T=torch.zeros(len(ids), dtype=torch.int32),
        slot_mapping_T=positions_T.clone(),
        page_table_SX=pages,
        sample_rows_B=torch.tensor(wanted, dtype=torch.int64),
        context_TN=torch.zeros((len(ids), context), dtype=torch.int64),
    )


def load(path: Path, preset: dict[str, object], dtype: torch.dtype = torch.float32) -> tuple[Model, Checkpoint]:
    checkpoint = Checkpoint.open(make_checkpoint(path, preset, seed=3, drafts=True))
    assert not checkpoint.no_drafts
    return load_model(checkpoint, dtype, lambda done, total: None, drafts=True), checkpoint


def context_of(model: Model, ids: list[int]) -> Tensor:
    from services.attention_worker.engine.ngram_context import context_of as numbers

    assert model.ngram is not None
    return torch.from_numpy(numbers(model.ngram, ids, 0, len(ids)))


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_a_draft_is_what_the_formulas_say(case: str, tmp_path: Path) -> None:
    model, checkpoint = load(tmp_path, CASES[case])
    length = 400 if case == "sparse" else 50
    ids = torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    expected_TV = Fp64Reference(tmp_path).draft_logits(ids)
    caches = model.new_cache(32, PAGE)
    assert len(caches) == 5
    context = model.ngram.neighbours if model.ngram else 0
    with local_dispatcher(checkpoint, torch.float32) as dispatcher:
        step = step_of(ids, 0, [0], context)
        if model.ngram:
            step.context_TN[:] = context_of(model, ids)
        model.forward(step, caches, dispatcher)
    every = list(range(len(ids) - 1))
    logits_TV = model.draft(step_of(ids[1:], 0, every), torch.tensor(every), caches)
    assert (logits_TV - expected_TV).abs().max() < 2e-4 * expected_TV.abs().max()


@torch.inference_mode()
def test_native_code_drafts_the_bits_of_python_in_any_chunks(tmp_path: Path) -> None:
    model, checkpoint = load(tmp_path, PLAIN, torch.bfloat16)
    ids = torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    with local_dispatcher(checkpoint, torch.bfloat16) as dispatcher:
        found = []
        for native in (model._native, None):
            model._native = native
            for size in (39, 7, 1):
                caches = model.new_cache(32, PAGE)
                rows = []
                for start in range(0, 39, size):
                    chunk = ids[start : start + size]
                    after = ids[start + 1 : start + 1 + len(chunk)]
                    model.forward(step_of(chunk, start, []), caches, dispatcher)
                    places = list(range(len(after)))
                    rows.append(model.draft(step_of(after, start, places), torch.tensor(places), caches))
                again = model.draft(step_of([7], 39, [0]), torch.tensor([rows[-1].shape[0] - 1]), caches)
                found.append(torch.cat([*rows, again]))
    assert found[0].shape == (40, 320)
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert len(found) == 6


@torch.inference_mode()
def test_rows_that_are_not_wanted_are_cached_all_the_same(tmp_path: Path) -> None:
    model, checkpoint = load(tmp_path, PLAIN)
    ids = list(range(10, 30))
    with local_dispatcher(checkpoint, torch.float32) as dispatcher:
        caches = []
        for wanted in (list(range(20)), [19], []):
            cache = model.new_cache(32, PAGE)
            model.forward(step_of(ids, 0, []), cache, dispatcher)
            logits_BV = model.draft(step_of([*ids[1:], 5], 0, wanted), torch.arange(20), cache)
            assert logits_BV.shape == (len(wanted), 320)
            caches.append(cache[-1])
    assert caches[0].abs().sum() > 0
    assert all(torch.equal(caches[0], other) for other in caches[1:])
