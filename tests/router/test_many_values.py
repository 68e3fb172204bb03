"""Bodies with very many small values: counted before they are parsed, and rejected with the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateway_harness import Harness

from services.router.gateway.json_size import field_beyond, most_values
from services.router.gateway.request_body import MAX_BODY_BYTES, MAX_IDS_AND_VALUES, MAX_VALUES

MESSAGE = '{"role":"user","content":""}'
PART = '{"type":"text","text":""}'
CHAT, TEXT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
CASES = [
    (CHAT, '{"messages":[', MESSAGE, "]}", "messages"),
    (CHAT, '{"messages":[', "0", "]}", "messages"),
    (CHAT, '{"messages":[{"role":"user","content":[', PART, "]}]}", "messages"),
    (CHAT, f'{{"messages":[{MESSAGE}],"tools":[', '{"type":"function","function":{"name":"f"}}', "]}", "tools"),
    (TEXT, '{"prompt":[', "7", "]}", "prompt"),
    (TEXT, '{"prompt":[', "[7]", "]}", "prompt"),
    (MESSAGES, '{"model":"","max_tokens":1,"messages":[', MESSAGE, "]}", "messages"),
    (MESSAGES + "/count_tokens", '{"model":"","messages":[{"role":"user","content":[', PART, "]}]}", "messages"),
    (RESPONSES, '{"input":[', MESSAGE, "]}", "input"),
    ("/tokenize", '{"messages":[', MESSAGE, "]}", "messages"),
    ("/detokenize", '{"tokens":[', "7", "]}", "tokens"),
]


def filled(begin: str, item: str, end: str, size: int) -> bytes:
    """A body of about `size` bytes."""
    return (begin + ",".join([item] * ((size - len(begin)) // (len(item) + 1))) + end).encode()


@pytest.mark.parametrize(("path", "begin", "item", "end", "field"), CASES)
def test_the_largest_bodies_are_rejected_with_the_field(
    router: Harness, path: str, begin: str, item: str, end: str, field: str
) -> None:
    body = filled(begin, item, end, MAX_BODY_BYTES - 100)
    answer = httpx2.post(router.url + path, content=body, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
    assert str(MAX_IDS_AND_VALUES if path in (TEXT, "/detokenize") else MAX_VALUES) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": ""}] * 4097}, "messages"),
        (RESPONSES, {"input": [{"role": "user", "content": ""}] * 4097}, "input"),
        (MESSAGES, {"model": "", "max_tokens": 1, "messages": [{"role": "user", "content": ""}] * 4097}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 2049}] * 2}, "messages"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": ""}] * 4097}]}, "input"),
        (TEXT, {"prompt": [[5]] * 129}, "prompt"),
        (TEXT, {"prompt": ["a"] * 129}, "prompt"),
        ("/detokenize", {"tokens": [5] * ((1 << 18) + 1)}, "tokens"),
    ],
)
def test_lists_have_limits_of_their_own(router: Harness, path: str, body: dict[str, Any], param: str) -> None:
    answer = httpx2.post(router.url + path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(param)


def test_text_full_of_separators_is_text(router: Harness) -> None:
    text = ',[{"\\' * (MAX_VALUES // 2)
    answer = httpx2.post(router.url + "/tokenize", json={"prompt": text})
    assert answer.status_code == 200


def values(value: Any) -> Iterator[Any]:
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from values(child)


JSON = st.recursive(
    st.none() | st.integers() | st.text('",[]{}\\a', max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text('",\\ab', max_size=3), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from("abc"), JSON, min_size=1, max_size=3))
def test_the_count_of_values(value: dict[str, Any]) -> None:
    """A container counts with its first item, which is there or not: the count is exact but for empty ones."""
    data = json.dumps(value).encode()
    count = sum(1 + (one in ([], {})) for one in values(value))
    assert field_beyond(data, count) is None
    assert field_beyond(data, count - 1) is not None
    assert count <= most_values(data)


def test_the_field_of_the_first_value_beyond() -> None:
    data = b'{"a":[1,{"x":2}],"b":"a,[","c\\"":{"d":[7,8,9]}}'
    fields = [field_beyond(data, most) for most in range(1, 12)]
    assert fields == ["a", "a", "a", "a", "b", "c", "c", "c", "c", "c", None]
