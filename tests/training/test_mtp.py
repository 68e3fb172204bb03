"""The MTP module: its arithmetic, the answers it learns from, its run, and what is stored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from caracal_kernels import sample
from safetensors.torch import save_file
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from training.data.batches import batch_of, encode, pad
from training.data.corpus import Source
from training.data.dialogues import HELD_OUT, dialogues
from training.export.read import MTP, digest, load_exported, load_head, read_tensors, trunk_of
from training.export.write import export
from training.model.attention import rope_table
from training.model.config import ModelConfig
from training.model.longcat_flash import LongcatFlash
from training.mtp.acceptance import Drafting, measure
from training.mtp.answers import Answer, complete
from training.mtp.batches import asked, ordinals, spans
from training.mtp.head import MtpHead, MtpLayer
from training.mtp.stage import Mtp
from training.recipe import MtpRecipe, Recipe
from training.trunk import Trunk

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "caracal-tiny"
RESULT = ROOT / "bench" / "results" / "builtin-mtp.json"
SMALL = ModelConfig(num_layers=1, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)
RECIPE = MtpRecipe(steps=4, batch_dialogues=3, groups=2, warmup=2)
NAMES = {
    "embed_tokens.weight",
    "norm.weight",
    *(f"layers.0.{norm}.weight" for norm in ("enorm.m", "hnorm.m", "input_layernorm", "post_attention_layernorm")),
    "layers.0.eh_proj.weight",
    *(f"layers.0.self_attn.{part}_proj.weight" for part in ("q_a", "q_b", "kv_b", "o")),
    "layers.0.self_attn.kv_a_proj_with_mqa.weight",
    *(f"layers.0.self_attn.{part}_a_layernorm.weight" for part in ("q", "kv")),
    *(f"layers.0.transformer_layer.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
}


class OneByOne:
    """The draft step as servers run it: one row at a time with a cache of its own; drafts take their entries back."""

    def __init__(self, trunk: LongcatFlash, head: MtpHead) -> None:
        self.config, self.embedding_VD, self.weights = head.config, trunk.embed_tokens.weight, head.state_dict()
        layer = head.layers[0]
        assert isinstance(layer, MtpLayer)
        self.attention = layer.self_attn
        self.cache: list[tuple[Tensor, Tensor]] = []  # keys [H, Q] and values [H, U] by position

    def weight(self, name: str) -> Tensor:
        found: Tensor = self.weights[f"layers.0.{name}.weight"]
        return found

    def normed(self, x_D: Tensor, weight_D: Tensor) -> Tensor:
        out_D: Tensor = x_D / (x_D.pow(2).mean() + self.config.rms_norm_eps).sqrt() * weight_D
        return out_D

    def step(self, token: int, hidden_D: Tensor) -> Tensor:
        """Writes the next position's entry; `token` is the one behind it. Returns the normed output."""
        position = len(self.cache)
        e_D = self.normed(self.embedding_VD[token], self.weight("enorm.m"))
        u_D = self.weight("eh_proj") @ torch.cat([e_D, self.normed(hidden_D, self.weight("hnorm.m"))])
        rope = rope_table(self.config, position + 1)[position:]
        q, k, v = (
            part[0] for part in self.attention.project(self.normed(u_D, self.weight("input_layernorm"))[None], rope)
        )
        self.cache.append((k, v))
        keys, values = (torch.stack(part) for part in zip(*self.cache, strict=True))
        shares = torch.softmax(torch.einsum("hq,shq->hs", q, keys) / math.sqrt(q.shape[-1]), -1)
        a_D = u_D + self.weight("self_attn.o_proj") @ torch.einsum("hs,shu->hu", shares, values).flatten()
        n_D = self.normed(a_D, self.weight("post_attention_layernorm"))
        gate_F, up_F = (self.weight(f"transformer_layer.mlp.{part}_proj") @ n_D for part in ("gate", "up"))
        inner_F = gate_F * torch.sigmoid(gate_F) * up_F
        return self.normed(a_D + self.weight("transformer_layer.mlp.down_proj") @ inner_F, self.weights["norm.weight"])

    def draft(self, tokens: list[int], hidden_D: Tensor) -> list[Tensor]:
        """Runs a step for each of `tokens`, from the trunk's output on; only the first one's entry stays."""
        outputs = []
        for token in tokens:
            hidden_D = self.step(token, hidden_D)
            outputs.append(hidden_D)
        del self.cache[len(self.cache) - len(tokens) + 1 :]
        return outputs


def random_head(trunk: LongcatFlash) -> MtpHead:
    head = MtpHead(trunk.config)
    rng = torch.Generator().manual_seed(5)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, float(weight.ndim == 1), 0.3 if weight.ndim == 1 else 0.15, generator=rng)
    return head


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported trunk of random weights; also those that a run begins with at zero."""
    folder = tmp_path_factory.mktemp("small")
    trunk = Trunk(folder / "run", Recipe(model=SMALL))
    rng = torch.Generator().manual_seed(3)
    for weight in trunk.model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, 0.0, 0.1, generator=rng)
    export(trunk.model, trunk.tokenizer, folder / "model")
    return folder / "model"


@torch.no_grad()
def test_every_pass_equals_drafting_row_by_row_with_a_cache() -> None:
    trunk, tokenizer = load_exported(MODEL, torch.float32)
    head = random_head(trunk)
    ids = encode(tokenizer, next(dialogues(21, 0, 1)))[0][:40]
    padded = pad([ids, ids[:25]], 1)  # the second row only shows that rows do not see each other
    hidden_TD = trunk.norm(trunk.states(padded.ids_T, padded.groups))
    start = padded.starts[0]
    rows_A = start + torch.arange(len(ids) - 1)
    outputs = head(trunk, padded.ids_T, hidden_TD, padded.groups, rows_A, 3)
    rows = OneByOne(trunk, head)
    for position in range(len(ids) - 3):
        drafted = rows.draft(ids[position + 1 : position + 4], hidden_TD[start + position])
        for number, expected_D in enumerate(drafted):
            torch.testing.assert_close(outputs[number][position + number], expected_D, atol=2e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guessed_answers_are_those_of_sampling_token_by_token(temperature: float) -> None:
    trunk, tokenizer = load_exported(MODEL, torch.float32)
    encoded = [encode(tokenizer, dialogue) for dialogue in dialogues(22, 0, 4)]
    answers = [asked(one, 1, 900 + number, temperature) for number, one in enumerate(encoded)]
    answers[0].ids = [7, 7, 7]  # a guess that is wrong from the first token on
    complete(trunk, answers, groups=2)
    for answer in answers:
        ids = list(answer.prompt)
        for drawn in answer.ids:
            logits_1V = trunk(torch.tensor(ids), [(1, len(ids))], torch.tensor([len(ids) - 1]))
            off = torch.zeros(1)
            given = torch.tensor([answer.seed]), torch.tensor([len(ids)]), off + temperature, off.int(), off + 1, off
            assert int(sample(logits_1V, *given)) == drawn
            ids.append(drawn)
        assert answer.complete


def test_an_answer_stops_at_its_limit() -> None:
    answer = Answer([1], [], 0, 0.0, limit=5)
    while not answer.complete:
        answer.correct([9] * (len(answer.ids) + 1))
    assert answer.ids == [9] * 5


def test_where_answers_are() -> None:
    assert ordinals(torch.tensor([4, 5, 6, 9, 20, 21])).tolist() == [0, 1, 2, 0, 0, 1]
    assert spans([False, True, True, False, True]) == [(1, 3), (4, 5)]


def test_rows_that_draft_alone_or_with_others(small: Path) -> None:
    """Rows of one answer and those of all, in any order, in one group or several: the same drafts."""
    trunk, tokenizer = load_exported(small, torch.float32)
    head = random_head(trunk)
    encoded = [encode(tokenizer, dialogue) for dialogue in dialogues(24, 0, 5)]
    hidden: dict[int, list[Tensor]] = {}
    for groups in (1, 2):
        batch = batch_of(encoded, groups)
        hidden_TD = trunk.norm(trunk.states(batch.ids_T, batch.groups))
        rows_A = batch.wanted_A[ordinals(batch.wanted_A) > 0] - 1
        hidden[groups] = head(trunk, batch.ids_T, hidden_TD, batch.groups, rows_A, 3)
        order = torch.randperm(len(rows_A), generator=torch.Generator().manual_seed(1))
        mixed = head(trunk, batch.ids_T, hidden_TD, batch.groups, rows_A[order], 3)
        for whole_AD, mixed_AD in zip(hidden[groups], mixed, strict=True):
            assert torch.equal(whole_AD[order], mixed_AD)
        alone = head(trunk, batch.ids_T, hidden_TD, batch.groups, rows_A[:4], 1)
        torch.testing.assert_close(alone[0], hidden[groups][0][:4], atol=2e-5, rtol=0)
    ordinal_A = ordinals(rows_A)  # in its answer, of each row that drafts
    for number, (one_AD, two_AD) in enumerate(zip(hidden[1], hidden[2], strict=True)):
        meant_A = ordinal_A >= number
        assert meant_A.sum() > 40
        torch.testing.assert_close(one_AD[meant_A], two_AD[meant_A], atol=2e-5, rtol=0)


def test_drafting_counts_what_a_server_does() -> None:
    drafting = Drafting(2)
    # Tokens 0..5. At token 1 both drafts are right, at 4 the first is wrong, at 5 only one is left.
    first = [True, False, False, False, True]
    second = [True, True, True, True]
    drafting.play([first, second])
    assert (drafting.steps, drafting.tokens) == (3, 5)
    assert (dict(drafting.drafted), dict(drafting.accepted)) == ({0: 3, 1: 2}, {0: 2, 1: 1})
    assert drafting.result()["share_by_position"] == [2 / 3, 1 / 2]


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, small: Path) -> None:
    whole = Mtp(tmp_path / "whole", small, 1, RECIPE)
    for _ in range(4):
        whole.advance()
    first = Mtp(tmp_path / "halves", small, 1, RECIPE)
    first.advance()
    first.advance()
    first.save()
    first.advance()
    second = Mtp(tmp_path / "halves", small, 1, RECIPE, threads=2)
    assert second.step == 2
    second.advance()
    second.advance()
    for name, value in whole.head.state_dict().items():
        assert torch.equal(value, second.head.state_dict()[name]), name
    with pytest.raises(ValueError, match="another recipe"):
        Mtp(tmp_path / "halves", MODEL, 1, RECIPE)  # another trunk


def test_the_stage_learns_and_leaves_every_bit_of_the_trunk(tmp_path: Path, small: Path) -> None:
    from rich.console import Console

    run = Mtp(tmp_path, small, 1, RECIPE)
    before, fresh = read_tensors(small), {name: value.clone() for name, value in run.head.state_dict().items()}
    run.run(Console(quiet=True))
    run.publish()
    after = read_tensors(small)
    assert digest(trunk_of(after)) == digest(before)
    assert {name.removeprefix(MTP) for name in after if name.startswith(MTP)} == NAMES
    assert len(NAMES) == 17
    head = load_head(small, torch.float32)
    changed = [name for name, value in head.state_dict().items() if not torch.equal(value, fresh[name])]
    assert len(changed) == 16
    assert json.loads((small / "config.json").read_text())["num_nextn_predict_layers"] == 1
    run.publish()  # as a run does that was killed while it wrote
    assert digest(read_tensors(small)) == digest(after)


def test_what_is_shipped_is_what_was_measured() -> None:
    tensors = read_tensors(MODEL)
    result = json.loads(RESULT.read_text())
    assert result["weights"] == digest(tensors)
    assert {name.removeprefix(MTP) for name in tensors if name.startswith(MTP)} == NAMES
    assert torch.equal(tensors[f"{MTP}embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    for name in ("greedy", "sampled"):
        assert result[name]["by_draft_length"]["1"]["share"] >= 0.8


def test_shipped_drafts_are_accepted() -> None:
    played = list(Source().dialogues(HELD_OUT + 3, 0, 24))
    for temperature in (0.0, 1.0):
        single = measure(MODEL, played, HELD_OUT + 3, temperature)["by_draft_length"]["1"]
        assert single["drafted"] > 200
        assert single["share"] >= 0.8


@pytest.mark.parametrize("left_out", [f"{MTP}embed_tokens.weight", MTP])
def test_servers_open_it_with_and_without_the_second_embedding(tmp_path: Path, left_out: str) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((MODEL / name).read_bytes())
    tensors = {name: value for name, value in read_tensors(MODEL).items() if not name.startswith(left_out)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert len(Checkpoint.open(tmp_path).names()) == len(tensors)
    assert len(Checkpoint.open(MODEL).names()) > len(tensors)
