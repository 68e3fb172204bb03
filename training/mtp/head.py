"""The MTP module as LongCat-Flash has it: one dense block on the trunk's normed output and the next token's embedding.

Row i takes the trunk's output at position i and token i + 1, and predicts token i + 2. Run again, on its own output, it
predicts one token more. Legend: T tokens of all groups, D hidden, R rope dim, H heads, Q query and key dim, U value
dim, B rows, S length of a row, K keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.attention import Attention, Groups, RMSNorm, by_head, linear, rope_of
from training.model.config import ModelConfig
from training.model.longcat_flash import MLP, LongcatFlash

KeysValues = tuple[Tensor, Tensor]  # [T, H, Q] and [T, H, U] of one pass


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

    def forward(
        self, next_TD: Tensor, hidden_TD: Tensor, rope_TR: Tensor, groups: Groups, passes: list[KeysValues]
    ) -> Tensor:
        """Adds this pass's keys and values to `passes`."""
        both_TD = torch.cat([self.enorm["m"](next_TD), self.hnorm["m"](hidden_TD)], -1)
        x_TD: Tensor = self.eh_proj(both_TD)
        q_THQ, k_THQ, v_THU = self.self_attn.project(self.input_layernorm(x_TD), rope_TR)
        passes.append((k_THQ, v_THU))
        x_TD = x_TD + self.self_attn.o_proj(attend_passes(q_THQ, passes, groups))
        mlp: nn.Module = self.transformer_layer["mlp"]
        out_TD: Tensor = x_TD + mlp(self.post_attention_layernorm(x_TD))
        return out_TD


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
        self, trunk: LongcatFlash, ids_T: Tensor, hidden_TD: Tensor, groups: Groups, passes: int
    ) -> list[Tensor]:
        """Returns what the trunk's `lm_head` reads, [T, D] for each pass; every row drafts the token after next.

        `hidden_TD` is the trunk's output behind its last norm. Pass n has the true token before the one that it drafts,
        and the hidden state of pass n - 1 in the row before. So its draft is the n-th of a server's, provided that
        those before it were accepted. The first n - 1 tokens of a row have no meaning in pass n.
        """
        next_TD: Tensor = trunk.embed_tokens(ids_T.roll(-1))
        rope_TR = rope_of(self.config, groups)
        made: list[KeysValues] = []
        outputs: list[Tensor] = []
        for _ in range(passes):
            out_TD = self.norm(self.layers[0](next_TD, hidden_TD, rope_TR, groups, made))
            outputs.append(out_TD)
            hidden_TD = out_TD.roll(1, 0)
        return outputs


def attend_passes(q_THQ: Tensor, passes: list[KeysValues], groups: Groups) -> Tensor:
    """Attention of the last of n passes.

    Of its last n positions a row sees the keys of passes 1 to n, its own last, and of all before them pass 1's: a
    server writes those from the trunk's output, once it has accepted the tokens.
    """
    out: list[Tensor] = []
    begin = 0
    for rows, length in groups:
        part = slice(begin, begin := begin + rows * length)
        q_BHSQ = by_head(q_THQ[part], rows)
        k_BHKQ = torch.cat([by_head(k_THQ[part], rows) for k_THQ, _ in passes], 2)
        v_BHKU = torch.cat([by_head(v_THU[part], rows) for _, v_THU in passes], 2)
        o_BHSU = F.scaled_dot_product_attention(q_BHSQ, k_BHKQ, v_BHKU, attn_mask=visible(length, len(passes)))
        out.append(o_BHSU.transpose(1, 2).reshape(rows * length, -1))
    return torch.cat(out)


def visible(length: int, passes: int) -> Tensor:
    """[S, passes x S] bool: which keys of which pass a row of the last pass sees."""
    before_SS = torch.arange(length)[:, None] - torch.arange(length)
    return torch.cat([before_SS >= passes - 1, *(before_SS == passes - n for n in range(2, passes + 1))], 1)
