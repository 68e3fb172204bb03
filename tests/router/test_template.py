"""The chat template and its sandbox, against Hugging Face's own rendering."""

from __future__ import annotations

from typing import Any

import pytest
from support.gateway_assets import TEMPLATE

from services.router.requests.errors import InvalidRequest
from services.router.requests.template import ChatTemplate

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief & <kind>"},
    {"role": "user", "content": "naïve 猫?"},
    {
        "role": "assistant",
        "content": "ok",
        "tool_calls": [{"type": "function", "function": {"name": "get", "arguments": {"a": "é<>&'"}}}],
    },
    {"role": "tool", "content": "{}"},
]
TOOLS = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}]
LOOPS = "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content | upper }}|{% endfor %}"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


def text(source: str, messages: list[dict[str, Any]] = MESSAGES, **options: Any) -> str:
    return template(source).render(messages, **options)


@pytest.mark.parametrize("source", [TEMPLATE, LOOPS, "{{ bos_token }}{{ messages | tojson(indent=2) }}\n"])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_renders_as_hugging_face_does(source: str, tools: list[dict[str, Any]] | None) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    given: list[Any] | None = list(tools) if tools else None  # transformers' type also allows callables
    rendered: Any = render_jinja_template(
        [MESSAGES], tools=given, chat_template=source, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert text(source, tools=tools) == rendered[0][0]


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages[9].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ range(10000000) | list }}",
    ],
)
def test_forbidden_operations_are_an_invalid_request(source: str) -> None:
    with pytest.raises(InvalidRequest):
        template(source).render(MESSAGES)
    assert MESSAGES[0]["role"] == "system"


def test_strftime_now_is_defined() -> None:
    assert text("{{ strftime_now('%Y') }}").isdigit()
