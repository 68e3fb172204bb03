"""Which model a config.json describes, and which members of the family are not served. Pure.

`architectures` decides, `model_type` only where there is none: several published files have no `model_type`. Code that
`auto_map` names is never run, so the field decides nothing.
Source: docs/longcat-flash.md, family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.checkpoint.errors import CheckpointError, bad_field, shown

FLASH = "LongcatFlashForCausalLM"  # Chat, Thinking, Thinking-2601, ZigZag
NGRAM = "LongcatFlashNgramForCausalLM"  # Flash-Lite
SERVED = (FLASH, NGRAM)
_SPARSE = "LongcatCausalLM"
_NEXT = "LongcatNextForCausalLM"
_BY_MODEL_TYPE = {
    "longcat_flash": FLASH,
    "longcat_flash_ngram": NGRAM,
    "longcat_flash_lsa": _SPARSE,
    "longcat_next": _NEXT,
}


def architecture_of(raw: Mapping[str, Any]) -> str:
    """Returns the architecture of a parsed config.json, one of SERVED.

    Raises CheckpointError with one line that says what the model is, and which part of it is not served.
    """
    named = _named(raw)
    architecture = named or _BY_MODEL_TYPE.get(str(raw.get("model_type")), "")
    if missing := _missing_part(architecture, raw):
        raise CheckpointError(f"config.json: {missing} is not served")
    if architecture in SERVED:
        return architecture
    served = f"Caracal serves {' and '.join(SERVED)}"
    kind = raw.get("model_type")
    if named:
        model = f" (model_type {shown(kind)})" if kind else ""
        raise bad_field("architectures", f"{shown(named)}{model} is another model; {served}")
    if kind:
        raise bad_field("model_type", f"{shown(kind)} is another model; {served}")
    raise bad_field("architectures", f"is missing, and so is model_type; {served}")


def _named(raw: Mapping[str, Any]) -> str:
    architectures = raw.get("architectures")
    if architectures is None or architectures == []:
        return ""
    if not isinstance(architectures, list) or not all(isinstance(each, str) for each in architectures):
        raise bad_field("architectures", f"{shown(architectures)} is not a list of names")
    return str(architectures[0])


def _missing_part(architecture: str, raw: Mapping[str, Any]) -> str:
    """Names the member of the family and the part of it that we lack; empty when there is none."""
    if architecture == _SPARSE:
        member = "LongCat-Flash-Lite-Sparse" if raw.get("attention_method") == "LSA" else "LongCat-2.0"
        return f"{member}: indexer attention (index_topk)"
    if architecture == _NEXT:
        return "LongCat-Next: a vocabulary with image and audio tokens (LongcatNextForCausalLM)"
    if "longcat" in architecture.lower() and "omni" in architecture.lower():
        return f"LongCat-Flash-Omni: vision and audio encoders ({ascii(architecture)[1:-1][:60]})"
    if architecture in SERVED and raw.get("index_topk") is not None:
        return f"{architecture} with indexer attention (index_topk)"
    return ""
