"""LongCat-Flash for training: the architecture's exact dataflow on padded groups of rows, without a KV cache.

Legend: T tokens of all groups, R rope dim, D hidden, A tokens of answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.attention import Attention, Groups, RMSNorm, linear, rope_of
from training.model.config import SERVED, Architecture, ModelConfig
from training.model.moe import MoE

Deviation = Callable[[str, Tensor], float]  # the standard deviation of a matrix at the beginning, by its name and shape


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = linear(config.hidden_size, config.ffn_hidden_size)
        self.up_proj = linear(config.hidden_size, config.ffn_hidden_size)
        self.down_proj = linear(config.ffn_hidden_size, config.hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        y_TD: Tensor = self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))
        return y_TD


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, architecture: Architecture) -> None:
        super().__init__()
        self.shortcut = architecture.shortcut
        self.input_layernorm = nn.ModuleList(RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(2))
        self.post_attention_layernorm = nn.ModuleList(
            RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(2)
        )
        self.self_attn = nn.ModuleList(Attention(config, architecture) for _ in range(2))
        self.mlps = nn.ModuleList(MLP(config) for _ in range(2))
        self.mlp = MoE(config, architecture)

    def forward(self, x_TD: Tensor, rope_TR: Tensor, groups: Groups) -> Tensor:
        x_TD = x_TD + self.self_attn[0](self.input_layernorm[0](x_TD), rope_TR, groups)
        h_TD = self.post_attention_layernorm[0](x_TD)
        if self.shortcut:
            moe = self.mlp.start(h_TD)
        x_TD = x_TD + self.mlps[0](h_TD)
        if self.shortcut:
            moe.compute()
        x_TD = x_TD + self.self_attn[1](self.input_layernorm[1](x_TD), rope_TR, groups)
        h_TD = self.post_attention_layernorm[1](x_TD)
        if not self.shortcut:
            moe = self.mlp.start(h_TD)
            moe.compute()
        x_TD = x_TD + self.mlps[1](h_TD)
        out_TD: Tensor = x_TD + moe.finish()
        return out_TD


class LongcatFlash(nn.Module):
    """The whole model. Parameter names are the checkpoint's, but without `model.` and with stacked experts."""

    def __init__(self, config: ModelConfig, architecture: Architecture = SERVED) -> None:
        super().__init__()
        self.config, self.architecture = config, architecture
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, architecture) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = linear(config.hidden_size, config.vocab_size)

    def quiet(self, name: str, weight: Tensor) -> float:
        """The deviation for variance 1 / inputs; zero for what writes to the residual stream, and for the head.

        With the architecture's `one_variance`, the first is 1 / hidden_size.
        """
        writes = name.endswith(("o_proj.weight", "down_proj.weight", "down_EDF", "lm_head.weight"))
        inputs = self.config.hidden_size if self.architecture.one_variance else weight.shape[-1]
        return 0.0 if writes else 1.0 if name.startswith("embed") else float(inputs**-0.5)

    def initialise(self, seed: int, deviation: Deviation | None = None, embedding_mean: float = 0.0) -> None:
        """Draws the matrices; `deviation` says how large, without it `quiet` does. Norms begin at one.

        `embedding_mean`: RMS of one vector that is added to all embeddings. Without biases, it alone lets a query or a
        key be the same at every token, so that a head can look at the token before it from the first step.
        """
        deviation = deviation or self.quiet
        rng = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, 0.0, deviation(name, weight), generator=rng)
        if embedding_mean:
            with torch.no_grad():
                self.embed_tokens.weight += embedding_mean * torch.randn(self.config.hidden_size, generator=rng)

    def forward(self, ids_T: Tensor, groups: Groups, wanted_A: Tensor) -> Tensor:
        """Returns fp32 logits [A, V] of the tokens at the indices `wanted_A`."""
        return self.logits(self.states(ids_T, groups)[wanted_A])

    def logits(self, state_AD: Tensor) -> Tensor:
        """Returns fp32 logits [A, V] of outputs of the last layer."""
        logits_AV: Tensor = self.lm_head(self.norm(state_AD))
        return logits_AV.float()

    def states(self, ids_T: Tensor, groups: Groups) -> Tensor:
        """Returns the last layer's output [T, D], before the final norm."""
        rope_TR = rope_of(self.config, groups, ids_T.device)
        x_TD: Tensor = self.embed_tokens(ids_T)
        for layer in self.layers:
            x_TD = layer(x_TD, rope_TR, groups)
        return x_TD

    def mixtures(self) -> list[MoE]:
        """Returns the MoE of each layer."""
        return [module for module in self.modules() if isinstance(module, MoE)]

    def to_bfloat16(self) -> LongcatFlash:
        """Converts to the served precision: everything bf16 except the routers."""
        self.to(torch.bfloat16)
        for moe in self.mixtures():
            moe.router.float()
        return self
