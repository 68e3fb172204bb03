"""The family's arithmetic once more, in plain fp64 from the published formulas, without any of our own code.

It reads config.json and the safetensors files itself, expands attention instead of absorbing it, and computes whole
sequences. Legend: T tokens, D hidden, H heads, M positions, R rope dims, V vocabulary.
Source: docs/longcat-flash.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

BLOCK = 128


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


class Fp64Reference:
    """A model directory, computed in fp64; `logits` of one sequence."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = json.loads((path / "config.json").read_text())
        stored = {name: value for file in sorted(path.glob("*.safetensors")) for name, value in load_file(file).items()}
        self._weights = {name: self._value(stored, name) for name in stored if not name.endswith("_scale_inv")}

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        """[T, V] fp64 of a whole sequence."""
        return self._head(self._hidden(ids))

    @torch.inference_mode()
    def draft_logits(self, ids: list[int]) -> Tensor:
        """[T - 1, V] fp64: what multi-token prediction guesses for the token after each but the first of a sequence."""
        w, prefix, hidden = self._weights, "model.mtp.layers.0.", self._hidden(ids)[:-1]
        token = _norm(w["model.embed_tokens.weight"][ids[1:]], w[f"{prefix}enorm.m.weight"], self._eps)
        both = torch.cat([token, _norm(hidden, w[f"{prefix}hnorm.m.weight"], self._eps)], -1)
        x = both @ w[f"{prefix}eh_proj.weight"].T
        sparse = bool(self.config.get("streaming_sparse_attention"))
        h = _norm(x, w[f"{prefix}input_layernorm.weight"], self._eps)
        x = x + self._attention(f"{prefix}self_attn.", sparse, h)
        h = _norm(x, w[f"{prefix}post_attention_layernorm.weight"], self._eps)
        x = x + self._mlp(f"{prefix}transformer_layer.mlp.", h)
        return self._head(_norm(x, w["model.mtp.norm.weight"], self._eps))

    def _hidden(self, ids: list[int]) -> Tensor:
        x = self._embedded(ids)
        for layer in range(self.config["num_layers"]):
            x = self._layer(layer, x)
        return _norm(x, self._weights["model.norm.weight"], self._eps)

    def _head(self, hidden: Tensor) -> Tensor:
        head = "model.embed_tokens.weight" if self.config.get("tie_word_embeddings") else "lm_head.weight"
        return hidden @ self._weights[head].T

    @property
    def _eps(self) -> float:
        return float(self.config["rms_norm_eps"])

    @staticmethod
    def _value(stored: dict[str, Tensor], name: str) -> Tensor:
        value, scales = stored[name].double(), stored.get(f"{name}_scale_inv")
        if scales is None:
            return value
        rows, columns = (torch.arange(size) // BLOCK for size in value.shape)
        return value * scales.double()[rows][:, columns]

    def _embedded(self, ids: list[int]) -> Tensor:
        table = self._weights["model.embed_tokens.weight"]
        x = table[ids]
        ratio = self.config.get("ngram_vocab_size_ratio")
        if ratio is None:
            return x
        vocab, splits, longest = len(table), self.config["emb_split_num"], self.config["emb_neighbor_num"]
        tables = (longest - 1) * splits
        for g in range(tables):
            rows = int(ratio * vocab) + 2 * g + 1
            picked = [self._hash(ids, i, g // splits + 2, rows, vocab) for i in range(len(ids))]
            row = self._weights[f"model.ngram_embeddings.embedders.{g}.weight"][picked]
            x = x + row @ self._weights[f"model.ngram_embeddings.post_projs.{g}.weight"].T
        mean: Tensor = x / (1 + tables)
        return mean

    def _hash(self, ids: list[int], at: int, length: int, rows: int, vocab: int) -> int:
        eos = self.config["eos_token_id"]
        ends = [i for i in range(at) if ids[i] in (eos if isinstance(eos, list) else [eos])]
        start = ends[-1] + 1 if ends else 0
        hashed: int = sum(ids[at - j] * vocab**j for j in range(length) if at - j >= start or j == 0) % rows
        return hashed

    def _layer(self, layer: int, x: Tensor) -> Tensor:
        w, prefix = self._weights, f"model.layers.{layer}."
        x = x + self._sublayer(layer, 0, _norm(x, w[f"{prefix}input_layernorm.0.weight"], self._eps))
        h = _norm(x, w[f"{prefix}post_attention_layernorm.0.weight"], self._eps)
        experts = self._experts(layer, h)
        x = x + self._mlp(f"{prefix}mlps.0.", h)
        x = x + self._sublayer(layer, 1, _norm(x, w[f"{prefix}input_layernorm.1.weight"], self._eps))
        h = _norm(x, w[f"{prefix}post_attention_layernorm.1.weight"], self._eps)
        return x + self._mlp(f"{prefix}mlps.1.", h) + experts

    def _mlp(self, prefix: str, h: Tensor) -> Tensor:
        gate, up, down = (self._weights[f"{prefix}{part}_proj.weight"] for part in ("gate", "up", "down"))
        return (torch.nn.functional.silu(h @ gate.T) * (h @ up.T)) @ down.T

    def _expert(self, layer: int, expert: int, h: Tensor) -> Tensor:
        prefix = f"model.layers.{layer}.mlp.experts."
        fused = self._weights.get(f"{prefix}gate_up_proj")
        if fused is None:
            return self._mlp(f"{prefix}{expert}.", h)
        gate, up = (h @ fused[expert].T).chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up) @ self._weights[f"{prefix}down_proj"][expert].T

    def _experts(self, layer: int, h: Tensor) -> Tensor:
        c, prefix = self.config, f"model.layers.{layer}.mlp.router."
        scores = (h @ self._weights[f"{prefix}classifier.weight"].T).softmax(-1)
        chosen = (scores + self._weights[f"{prefix}e_score_correction_bias"]).topk(c["moe_topk"], dim=-1).indices
        weights = torch.zeros_like(scores).scatter(1, chosen, scores.gather(1, chosen))
        if c.get("norm_topk_prob"):
            weights = weights / weights.sum(-1, keepdim=True)
        weights = weights * c["routed_scaling_factor"]
        ffn = c["n_routed_experts"]
        zero = weights[:, ffn:].sum(-1, keepdim=True) if c.get("zero_expert_type", "identity") == "identity" else 0.0
        out = zero * h
        for expert in range(ffn):
            rows = weights[:, expert].nonzero().flatten()
            out[rows] += weights[rows, expert, None] * self._expert(layer, expert, h[rows])
        return out

    def _sublayer(self, layer: int, index: int, h: Tensor) -> Tensor:
        streaming = self.config.get("streaming_sparse_attention") or {"layer_type": "00" * (layer + 1)}
        sparse = streaming["layer_type"][2 * layer + index] == "1"
        return self._attention(f"model.layers.{layer}.self_attn.{index}.", sparse, h)

    def _attention(self, prefix: str, sparse: bool, h: Tensor) -> Tensor:
        c = self.config
        w = {name: self._weights[f"{prefix}{name}.weight"] for name in ("q_a_proj", "q_a_layernorm", "q_b_proj")}
        w |= {n: self._weights[f"{prefix}{n}.weight"] for n in ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj")}
        heads, nope, rope = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
        q = _norm(h @ w["q_a_proj"].T, w["q_a_layernorm"], 1e-6) @ w["q_b_proj"].T
        if c.get("mla_scale_q_lora", True):
            q = q * math.sqrt(c["hidden_size"] / c["q_lora_rank"])
        q = q.view(len(h), heads, nope + rope)
        latent, k_rope = (h @ w["kv_a_proj_with_mqa"].T).split([c["kv_lora_rank"], rope], dim=-1)
        latent = _norm(latent, w["kv_a_layernorm"], 1e-6)
        if c.get("mla_scale_kv_lora", True):
            latent = latent * math.sqrt(c["hidden_size"] / c["kv_lora_rank"])
        k_nope, v = (latent @ w["kv_b_proj"].T).view(len(h), heads, -1).split([nope, c["v_head_dim"]], dim=-1)
        cos, sin, scale = self._rope(len(h))
        q = torch.cat([q[..., :nope], _rotated(q[..., nope:], cos[:, None], sin[:, None])], -1)
        k = torch.cat([k_nope, _rotated(k_rope, cos, sin)[:, None].expand(-1, heads, -1)], -1)
        score = torch.einsum("thd,shd->hts", q, k) * (nope + rope) ** -0.5 * scale
        score = score.masked_fill(~self._visible(sparse, len(h)), -math.inf)
        out = torch.einsum("hts,shv->thv", score.softmax(-1), v)
        return out.flatten(1) @ self._weights[f"{prefix}o_proj.weight"].T

    def _visible(self, sparse: bool, length: int) -> Tensor:
        row, key = torch.arange(length)[:, None], torch.arange(length)[None]
        causal = key <= row
        if not sparse:
            return causal
        streaming = self.config["streaming_sparse_attention"]
        blocks = -(-(row + 1) // BLOCK)
        sink, recent = (-(-streaming[name] // BLOCK) for name in ("sink_size", "recent_size"))
        seen: Tensor = causal & ((key // BLOCK < sink) | (key // BLOCK >= blocks - recent))
        return seen

    def _rope(self, length: int) -> tuple[Tensor, Tensor, float]:
        """(cos, sin, factor of the scores). Angles in fp32 as transformers computes them: fp64 ones would differ."""
        c = self.config
        given = c.get("rope_scaling") or c.get("rope_parameters") or {}
        theta = c.get("rope_theta") or given.get("rope_theta") or 1e7
        dims = c["qk_rope_head_dim"]
        period = theta ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)
        table = score = 1.0
        frequency = 1.0 / period
        if "yarn" in str(given.get("rope_type") or given.get("type")):
            factor, original = given["factor"], given["original_max_position_embeddings"]
            turns = [dims * math.log(original / (given[b] * 2 * math.pi)) / (2 * math.log(theta)) for b in
                     ("beta_fast", "beta_slow")]  # fmt: skip
            low, high = max(math.floor(turns[0]), 0), min(math.ceil(turns[1]), dims - 1)
            ramp = ((torch.arange(dims // 2, dtype=torch.float32) - low) / (high - low or 0.001)).clamp(0, 1)
            frequency = 1.0 / (factor * period) * ramp + 1.0 / period * (1 - ramp)
            reach = max(math.log(factor), 0.0)
            mscale, all_dims = (0.1 * given[name] * reach + 1 for name in ("mscale", "mscale_all_dim"))
            table, score = mscale / all_dims, all_dims**2
        angle = torch.outer(torch.arange(length).float(), frequency).double()
        return angle.cos() * table, angle.sin() * table, score


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], -1)
