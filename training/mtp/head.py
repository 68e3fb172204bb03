"""The MTP module as LongCat-Flash has it: one dense block on the trunk's normed output and the next token's embedding.

Row i takes the trunk's output at position i and token i + 1, and predicts token i + 2. Run again, on its own output, it
predicts one token more. Legend: T tokens of all groups, A rows that draft, P the places in which those are computed,
D hidden, R rope dim, H heads, Q query and key dim, U value dim, B lines, L places of a line, K keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.attention import Attention, Groups, RMSNorm, by_head, linear, rope_of
from training.model.config import ModelConfig
from training.model.longcat_flash import MLP, LongcatFlash

KeysValues = tuple[Tensor, Tensor]  # [T, H, Q] and [T, H, U] of the first pass, [P, H, Q] and [P, H, U] of others


class MtpLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = nn.ModuleDict({"m": RMSNorm(size, eps)})
        self.hnorm = nn.ModuleDict({"m": RMSNorm(size, eps)})
        self.eh_proj = linear(2 * size, size)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.self_attn = Attention(config)
        self.transformer_layer = nn.ModuleDict({"mlp": MLP(config)})

    def project(self, next_TD: Tensor, hidden_TD: Tensor, rope_TR: Tensor) -> tuple[Tensor, Tensor, KeysValues]:
        """Returns what a row goes on with, [T, D], its queries [T, H, Q], and what others read of it."""
        both_TD = torch.cat([self.enorm["m"](next_TD), self.hnorm["m"](hidden_TD)], -1)
        x_TD: Tensor = self.eh_proj(both_TD)
        q_THQ, k_THQ, v_THU = self.self_attn.project(self.input_layernorm(x_TD), rope_TR)
        return x_TD, q_THQ, (k_THQ, v_THU)

    def forward(self, x_PD: Tensor, q_PHQ: Tensor, passes: list[KeysValues], places: Places) -> Tensor:
        """`passes`: what this pass and those before it have for others, the first of all rows."""
        x_PD = x_PD + self.self_attn.o_proj(attend_passes(q_PHQ, passes, places))
        mlp: nn.Module = self.transformer_layer["mlp"]
        out_PD: Tensor = x_PD + mlp(self.post_attention_layernorm(x_PD))
        return out_PD


class MtpHead(nn.Module):
    """Parameter names are the checkpoint's, but without `model.mtp.`. Embedding and head are the trunk's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([MtpLayer(config)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def initialise(self, seed: int, trunk: LongcatFlash) -> None:
        """As the trunk's matrices were; the last norm begins as the trunk's, because the head behind it is the same."""
        rng = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                continue
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, 0.0, 0.0 if writes else weight.shape[-1] ** -0.5, generator=rng)
        with torch.no_grad():
            self.norm.weight.copy_(trunk.norm.weight)

    def forward(
        self, trunk: LongcatFlash, ids_T: Tensor, hidden_TD: Tensor, groups: Groups, rows_A: Tensor, passes: int
    ) -> list[Tensor]:
        """Returns what the trunk's `lm_head` reads of the rows that draft, [A, D] for each pass.

        `hidden_TD` is the trunk's output behind its last norm. `rows_A`: in any order; of each answer without a gap.
        Pass n has the true token before the one that it drafts, and the hidden state of pass n - 1 in the row before.
        So its draft is the n-th of a server's, provided that those before it were accepted. The first n - 1 rows of an
        answer have no meaning in pass n.
        """
        layer = self.layers[0]
        assert isinstance(layer, MtpLayer)
        places = places_of(rows_A, groups)
        next_TD: Tensor = trunk.embed_tokens(ids_T.roll(-1))
        rope_TR = rope_of(self.config, groups)
        next_PD, rope_PR = next_TD[places.row_P], rope_TR[places.row_P]
        x_TD, q_THQ, shared = layer.project(next_TD, hidden_TD, rope_TR)
        x_PD, q_PHQ = x_TD.index_select(0, places.row_P), q_THQ.index_select(0, places.row_P)
        made = [shared]
        outputs = [self.norm(layer(x_PD, q_PHQ, made, places))]
        for _ in range(1, passes):
            x_PD, q_PHQ, own = layer.project(next_PD, outputs[-1].roll(1, 0), rope_PR)
            made.append(own)
            outputs.append(self.norm(layer(x_PD, q_PHQ, made, places)))
        return [out_PD.index_select(0, places.place_A) for out_PD in outputs]


@dataclass(frozen=True)
class Places:
    """Where rows that draft are computed: as many places in every line of a group as its fullest line needs.

    `row_P`: the row of T at each place; those of lines with fewer are filled with a row that nothing reads.
    """

    row_P: Tensor
    place_A: Tensor
    position_P: Tensor  # within the line
    groups: list[tuple[int, int, int]]  # lines, places of a line, length of a line


def places_of(rows_A: Tensor, groups: Groups) -> Places:
    place_A = torch.empty_like(rows_A)
    rows: list[Tensor] = []
    positions: list[Tensor] = []
    shapes: list[tuple[int, int, int]] = []
    begin, count = 0, 0
    for lines, length in groups:
        mine = ((rows_A >= begin) & (rows_A < begin + lines * length)).nonzero()[:, 0]
        mine = mine[rows_A[mine].argsort()]
        line, position = (rows_A[mine] - begin) // length, (rows_A[mine] - begin) % length
        filled = torch.bincount(line, minlength=lines)
        wide = max(1, int(filled.max()))
        within = torch.arange(len(mine)) - (filled.cumsum(0) - filled)[line]
        position_BL = torch.zeros(lines, wide, dtype=torch.long)
        position_BL[line, within] = position
        place_A[mine] = count + line * wide + within
        rows.append((position_BL + begin + torch.arange(lines)[:, None] * length).flatten())
        positions.append(position_BL.flatten())
        shapes.append((lines, wide, length))
        begin, count = begin + lines * length, count + lines * wide
    return Places(torch.cat(rows), place_A, torch.cat(positions), shapes)


def attend_passes(q_PHQ: Tensor, passes: list[KeysValues], places: Places) -> Tensor:
    """Attention of the last of n passes.

    Of its last n positions a row sees the keys of passes 1 to n, its own last, and of all before them pass 1's: a
    server writes those from the trunk's output, once it has accepted the tokens.
    """
    out: list[Tensor] = []
    begin, first = 0, 0
    for lines, wide, length in places.groups:
        part, whole = slice(begin, begin := begin + lines * wide), slice(first, first := first + lines * length)
        parts = [whole] + [part] * (len(passes) - 1)
        q_BHLQ = by_head(q_PHQ[part], lines)
        k_BHKQ = torch.cat([by_head(k[rows], lines) for rows, (k, _) in zip(parts, passes, strict=True)], 2)
        v_BHKU = torch.cat([by_head(v[rows], lines) for rows, (_, v) in zip(parts, passes, strict=True)], 2)
        mask_B1LK = visible(places.position_P[part].view(lines, wide), length, len(passes))[:, None]
        o_BHLU = F.scaled_dot_product_attention(q_BHLQ, k_BHKQ, v_BHKU, attn_mask=mask_B1LK)
        out.append(o_BHLU.transpose(1, 2).reshape(lines * wide, -1))
    return torch.cat(out)


def visible(position_BL: Tensor, length: int, passes: int) -> Tensor:
    """[B, L, K] bool: which keys of which pass a place of the last pass sees."""
    lines, wide = position_BL.shape
    shared_BLS = torch.arange(length) <= position_BL[..., None] - (passes - 1)
    before_LL = torch.arange(wide)[:, None] - torch.arange(wide)
    own = [(before_LL == passes - n).expand(lines, -1, -1) for n in range(2, passes + 1)]
    return torch.cat([shared_BLS, *own], 2)
