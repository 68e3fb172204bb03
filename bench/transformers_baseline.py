"""The baseline of throughput: `transformers.generate` on the same weights, greedy, with a static batch.

Reads lines of `{"prompts": [[id, ...], ...], "new_tokens": n}`; answers
`{"tokens": n, "seconds": s, "inter_token_s": s}`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LongcatFlashConfig, LongcatFlashForCausalLM, StoppingCriteria, StoppingCriteriaList


def load_transformers(directory: Path, dtype: torch.dtype) -> LongcatFlashForCausalLM:
    """Returns transformers' model with the directory's tensors, experts fused; its rows of zero experts stay unused."""
    config = LongcatFlashConfig(**json.loads((directory / "config.json").read_text()))
    with torch.device("meta"):
        model = LongcatFlashForCausalLM(config)
    state: dict[str, torch.Tensor] = {}
    for shard in sorted(directory.glob("*.safetensors")):
        state.update(load_file(shard))
    total = config.n_routed_experts + config.zero_expert_num
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}.mlp.experts"
        gates, ups, downs = (
            torch.stack([state.pop(f"{prefix}.{e}.{name}_proj.weight") for e in range(config.n_routed_experts)])
            for name in ("gate", "up", "down")
        )
        fused = torch.cat([gates, ups], dim=1)
        state[f"{prefix}.gate_up_proj"] = fused.new_zeros(total, *fused.shape[1:]).index_copy(
            0, torch.arange(len(fused)), fused
        )
        state[f"{prefix}.down_proj"] = downs
    keep = ("classifier.weight", "e_score_correction_bias")
    state = {name: value if name.endswith(keep) else value.to(dtype) for name, value in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert not unexpected, unexpected
    assert not missing, missing
    # Rotary tables are not in the checkpoint, so they are still on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.train(False)
    return model


class TokenTimes(StoppingCriteria):
    """Stops nothing; notes when each token of the batch was there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def main() -> None:
    directory, dtype, threads = Path(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    model = load_transformers(directory, dtype)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        ids = torch.tensor(job["prompts"])
        new = job["new_tokens"]
        seen = TokenTimes()
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([seen]),
            )
        seconds = time.perf_counter() - start
        answer = {
            "tokens": (out.shape[1] - ids.shape[1]) * len(ids),
            "seconds": seconds,
            "inter_token_s": (seen.times[-1] - seen.times[0]) / (len(seen.times) - 1),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
