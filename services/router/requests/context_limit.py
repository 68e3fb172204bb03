"""How long a sequence may be, and what would have to change for a longer one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

CACHE = "The KV cache holds no more; more pages (--kv-pages, CARACAL_KV_PAGES) make it larger."
SETTING = "The workers' CARACAL_MAX_MODEL_LEN allows no more."


@dataclass(frozen=True, slots=True, order=True)
class ContextLimit:
    """The most tokens of prompt and answer. `reason`: a sentence for the client; empty when it is the model's own."""

    tokens: int
    reason: str = ""

    @classmethod
    def of_worker(cls, model: int, max_model_len: int, cached: int) -> ContextLimit:
        """The limit of a worker that says its longest sequence and the tokens of its cache; 0 = it does not say."""
        longest, cached = max_model_len or model, cached or model
        if min(longest, cached) >= model:
            return cls(model)
        return cls(cached, CACHE) if cached <= longest else cls(longest, SETTING)
