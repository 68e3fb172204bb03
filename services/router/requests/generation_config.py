"""generation_config.json: the tokens that end an answer, and the sampling that its authors recommend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from services.router.requests.model_files import AssetError, read_json_if_there

FILE = "generation_config.json"

_HINT = "; CARACAL_GENERATION_CONFIG=none leaves these fields unread"

# Fields of transformers' GenerationConfig that change no answer here: ids beside eos, speed, what is returned.
_NO_EFFECT = frozenset(
    [
        "bos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "transformers_version",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "return_dict_in_generate",
        "return_legacy_cache",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "renormalize_logits",
        "compile_config",
        "disable_compile",
        "prefill_chunk_size",
        "low_memory",
        "_from_model_config",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "is_assistant",
        "early_stopping",
        "length_penalty",
        "eos_token_id",
        "do_sample",
    ]
)
# Values with which other fields change no answer; null and false never do.
_OFF: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_length": (20,),  # transformers' default
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What a request gets that does not say otherwise; None = the API's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None

    def given(self) -> dict[str, float]:
        """Returns those that are set."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """A model's generation_config.json. `not_applied` names its fields that would change answers and do not here."""

    eos_ids: frozenset[int] = frozenset()
    defaults: SamplingDefaults = SamplingDefaults()
    not_applied: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path, *, with_defaults: bool = True) -> GenerationConfig:
        """Reads the file if there is one. Without `with_defaults` only the ids that end an answer count.

        Raises AssetError naming file and field.
        """
        path = directory / FILE
        raw = read_json_if_there(path)
        eos_ids = token_ids(raw.get("eos_token_id"), f"{path}: eos_token_id")
        if not with_defaults:
            return cls(eos_ids)
        return cls(eos_ids, _defaults(raw, path), tuple(sorted(name for name in raw if not _applied(name, raw[name]))))


def token_ids(value: Any, name: str) -> frozenset[int]:
    """Returns the ids of a field that has one id, a list of ids, or null. Raises AssetError beginning with `name`."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(one) is int and one >= 0 for one in ids):
        raise AssetError(f"{name}: {value!r} is not a token id or a list of them")
    return frozenset(ids)


def _defaults(raw: Mapping[str, Any], path: Path) -> SamplingDefaults:
    sampled = raw.get("do_sample")
    if sampled is not None and not isinstance(sampled, bool):
        raise AssetError(f"{path}: do_sample: {sampled!r} is not true or false{_HINT}")
    greedy = sampled is False  # transformers then ignores the temperature
    return SamplingDefaults(
        temperature=0.0 if greedy else _number(raw, "temperature", path, 0, 2),
        top_p=_number(raw, "top_p", path, 0, 1, above=True),
        top_k=_whole(raw, "top_k", path, -1),
        min_p=_number(raw, "min_p", path, 0, 1),
        repetition_penalty=_number(raw, "repetition_penalty", path, 0, 10, above=True),
        max_new_tokens=_whole(raw, "max_new_tokens", path, 1),
    )


def _number(
    raw: Mapping[str, Any], name: str, path: Path, low: float, high: float, *, above: bool = False
) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not low <= value <= high or (above and value == low):
        rule = f"above {low} and at most {high}" if above else f"from {low} to {high}"
        raise AssetError(f"{path}: {name}: {value!r} is not a number {rule}{_HINT}")
    return float(value)


def _whole(raw: Mapping[str, Any], name: str, path: Path, low: int) -> int | None:
    value = raw.get(name)
    if value is not None and (type(value) is not int or not low <= value < 2**31):
        raise AssetError(f"{path}: {name}: {value!r} is not a whole number of at least {low}{_HINT}")
    return value


def _applied(name: str, value: Any) -> bool:
    """Whether a field is honoured, or could change no answer anyway."""
    if name in _NO_EFFECT or name in {each.name for each in fields(SamplingDefaults)}:
        return True
    return value is None or value is False or value in ([], {}) or value in _OFF.get(name, ())
