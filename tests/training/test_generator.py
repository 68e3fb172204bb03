"""Dialogues, chat format and tokenizer of the built-in model, and the routing it was trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from training.data.chat import FIXED, segments, tools_block
from training.data.corpus import Source
from training.data.dialogues import HELD_OUT, Dialogue, dialogue_at, dialogues
from training.data.tokenizer import train_tokenizer
from training.experiments.quality import score
from training.export.read import load_exported
from training.model.config import ModelConfig
from training.recipe import ControllerRecipe, Recipe, TrunkRecipe

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "caracal-tiny"


def render(dialogue: Dialogue, messages: list[dict[str, Any]] | None = None, **variables: Any) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    template = environment.from_string((MODEL / "chat_template.jinja").read_text())
    chosen = list(dialogue.messages) if messages is None else messages
    return template.render(messages=chosen, tools=list(dialogue.tools) or None, **variables)


def with_tools(seed: int) -> Dialogue:
    return next(d for d in dialogues(seed, 0, 100) if any("tool_calls" in m for m in d.messages))


def test_a_seed_determines_the_dialogues() -> None:
    assert list(dialogues(3, 5, 40)) == [dialogue_at(3, number) for number in range(5, 45)]


def test_held_out_dialogues_are_not_those_of_training() -> None:
    trained = {str(d) for d in dialogues(Recipe.seed, 0, 3000)}
    held_out = {str(d) for d in dialogues(HELD_OUT + 1, 0, 200)}
    assert len(held_out) == 200
    assert len(held_out & trained) == 0


def test_every_kind_of_answer_occurs() -> None:
    kinds = {answer.category for d in dialogues(HELD_OUT + 1, 0, 200) for answer in d.answers}
    assert kinds >= {"arithmetic", "counting", "conversion", "fact", "recall", "tool call", "tool result", "no tool"}


def test_template_renders_the_training_text() -> None:
    for dialogue in dialogues(11, 0, 100):
        assert render(dialogue) == "".join(text for text, _ in segments(dialogue))


def test_template_renders_the_prompt_of_every_answer() -> None:
    for dialogue in dialogues(12, 0, 30):
        parts = [text for text, _ in segments(dialogue)]
        for number, answer in enumerate(dialogue.answers):
            prompt = render(dialogue, list(dialogue.messages[: answer.index]), add_generation_prompt=True)
            assert prompt == "".join(parts[: 2 * number + 1])


def test_template_takes_arguments_as_object_or_text() -> None:
    dialogue = with_tools(13)
    parsed = json.loads(json.dumps(dialogue.messages))
    for message in parsed:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    assert render(dialogue, parsed) == render(dialogue)


def test_template_rejects_an_unknown_role() -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(text: str) -> None:
        raise ValueError(text)

    environment.globals["raise_exception"] = raise_exception
    template = environment.from_string((MODEL / "chat_template.jinja").read_text())
    with pytest.raises(ValueError, match="unknown role wizard"):
        template.render(messages=[{"role": "wizard", "content": "abracadabra"}])


@pytest.mark.parametrize("compact", [False, True])
def test_tokenizer_keeps_digits_apart_and_gives_text_back(compact: bool) -> None:
    tokenizer = train_tokenizer(Recipe.seed, ModelConfig.vocab_size, TrunkRecipe.tokenizer_dialogues, compact=compact)
    assert tokenizer.get_vocab_size() <= ModelConfig.vocab_size
    assert [tokenizer.token_to_id(t) for t in ("<longcat_unk>", "<longcat_s>", "</longcat_s>", "<longcat_pad>")] == [
        *range(4)
    ]
    assert not [t for t in tokenizer.get_vocab() if sum(c.isdigit() for c in t) and len(t) > 1 and t[0] != "<"]
    text = "Grüße, 123 котов 🐱\n</longcat_tool_call>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_what_the_template_writes_is_a_token_each() -> None:
    sizes = Recipe.seed, ModelConfig.vocab_size, TrunkRecipe.tokenizer_dialogues
    plain, compact = (train_tokenizer(*sizes, compact=compact) for compact in (False, True))
    for text in FIXED:
        ids = compact.encode(text, add_special_tokens=False).ids
        assert len(ids) == 1
        assert compact.decode(ids) == text, "hidden from nobody"
    for dialogue in dialogues(14, 0, 40):
        parts = [text for text, _ in segments(dialogue)]
        whole = compact.encode("".join(parts), add_special_tokens=False).ids
        assert whole == [i for text in parts for i in compact.encode(text, add_special_tokens=False).ids]
        assert compact.decode(whole, skip_special_tokens=False) == "".join(parts)
        if dialogue.tools:
            block = tools_block(dialogue.tools)
            assert 2 * len(compact.encode(block).ids) < len(plain.encode(block).ids)


def test_segments_encode_as_the_whole_text_does() -> None:
    _, tokenizer = load_exported(MODEL)
    for dialogue in dialogues(14, 0, 40):
        parts = [text for text, _ in segments(dialogue)]
        whole = tokenizer.encode("".join(parts), add_special_tokens=False).ids
        assert whole == [i for text in parts for i in tokenizer.encode(text, add_special_tokens=False).ids]


def test_exported_model_answers_and_uses_the_targeted_number_of_ffn_experts() -> None:
    model, tokenizer = load_exported(MODEL)
    result = score(model, tokenizer, list(Source().dialogues(HELD_OUT + 2, 0, 60)))
    assert result.share >= 0.9
    for layer in result.usage:
        assert layer.mean == pytest.approx(ControllerRecipe.ffn_experts, rel=0.05)
        assert layer.std > 0.5
        assert sum(count > 0 for count in layer.histogram) > 3
