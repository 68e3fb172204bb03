"""Prompts are those of transformers, as text and as ids, for LongCat's published formats and generated dialogues."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chats import DIALOGUE, TEMPLATES, TOKENS, TOOL, source, tokenizer

from services.router.requests.marked_text import has_own
from services.router.requests.prompt_encoder import PromptEncoder, control_tokens
from services.router.requests.template import ChatTemplate

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "enable_thinking": st.booleans(),
        "save_history_reasoning_content": st.booleans(),
        "tool_choice": st.sampled_from(["auto", "none"]),
    },
)


@cache
def oracle(name: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    made: Any = PreTrainedTokenizerFast  # without types
    return made(tokenizer_object=tokenizer(), chat_template=source(name), **TOKENS)


@cache
def ours(name: str) -> tuple[ChatTemplate, PromptEncoder]:
    template = ChatTemplate(source(name), TOKENS)
    raw = json.loads(tokenizer().to_str())
    return template, PromptEncoder(tokenizer(), raw, control_tokens(raw, template.text, TOKENS.values()))


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=DIALOGUE, tools=st.lists(TOOL, max_size=2), options=OPTIONS, generate=st.booleans())
def test_text_and_ids_are_those_of_transformers(
    name: str, messages: list[Any], tools: list[Any], options: dict[str, Any], generate: bool
) -> None:
    template, prompts = ours(name)
    asked = {"tools": tools or None, "add_generation_prompt": generate, **options}
    wanted = oracle(name).apply_chat_template(messages, tokenize=False, **asked)
    text = template.render(messages, **asked)
    assert text == wanted
    assert prompts.encode(text) == oracle(name).apply_chat_template(messages, return_dict=False, **asked)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_templates_write_control_tokens(name: str) -> None:
    template, prompts = ours(name)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    text = template.render(messages)
    assert has_own(text)
    assert tokenizer().token_to_id("</longcat_s>") in prompts.encode(text)
