"""Chat templates in LongCat's published formats, a tokenizer with their control tokens, and generated dialogues."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from support.gateway_assets import train_tokenizer
from tokenizers import AddedToken, Tokenizer

REPO = Path(__file__).resolve().parents[2]
TEMPLATES = {
    "built-in": REPO / "models/caracal-tiny/chat_template.jinja",
    "training": REPO / "training/data/chat_template.jinja",
    **{path.stem: path for path in sorted((REPO / "tests/support/chat_templates").glob("*.jinja"))},
}
NOT_SPECIAL = ["<longcat_observation>", "<longcat_tool_declare>", "</longcat_tool_declare>", "<longcat_tool_response>"]
TOKENS = {"bos_token": "<longcat_s>", "eos_token": "</longcat_s>"}


@cache
def tokenizer() -> Tokenizer:
    """The gateway tests' tokenizer with the tokens of LongCat's later format; some are not flagged as special."""
    made = train_tokenizer()
    made.add_special_tokens([f"<longcat_{role}>" for role in ("system", "user", "assistant")])
    made.add_tokens([AddedToken(token, normalized=False) for token in NOT_SPECIAL])
    made.add_tokens([AddedToken("   ", normalized=False), AddedToken("hello", normalized=False)])  # text, no control
    return made


def source(name: str) -> str:
    return TEMPLATES[name].read_text()


TEXT = st.one_of(
    st.sampled_from(["", "hello   world", "naïve 猫 🐈", "12 + 30?", '{"a": "<b>"}', "\n\n x \n", "USER: /think_on"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=20),
)
JSON = st.recursive(
    st.one_of(TEXT, st.integers(-99, 99), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXT, inner, max_size=2)),
    max_leaves=4,
)
NAME = st.sampled_from(["get", "search.web", "add_2"])
TOOL = st.builds(
    lambda name, description, properties: {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties},
        },
    },
    NAME,
    TEXT,
    st.dictionaries(NAME, st.fixed_dictionaries({"type": st.just("string"), "description": TEXT}), max_size=2),
)
CALL = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    NAME,
    st.dictionaries(NAME, JSON, max_size=2),
)


def _turn(question: str, reasoning: str | None, calls: list[Any], result: str, answer: str) -> list[dict[str, Any]]:
    thought = {} if reasoning is None else {"reasoning_content": reasoning}
    turn: list[dict[str, Any]] = [{"role": "user", "content": question}]
    if calls:
        turn.append({"role": "assistant", "content": "", "tool_calls": calls, **thought})
        turn += [{"role": "tool", "content": result, "name": call["function"]["name"]} for call in calls]
    return [*turn, {"role": "assistant", "content": answer, **thought}]


TURN = st.builds(_turn, TEXT, st.none() | TEXT, st.lists(CALL, max_size=2), TEXT, TEXT)
DIALOGUE = st.builds(
    lambda system, turns, question: [
        *([] if system is None else [{"role": "system", "content": system}]),
        *(message for turn in turns for message in turn),
        {"role": "user", "content": question},
    ],
    st.none() | TEXT,
    st.lists(TURN, max_size=2),
    TEXT,
)
