"""Errors about a translated request name the fields of the API that was called."""

from __future__ import annotations

import pytest

from services.router.gateway.field_names import FieldNames
from services.router.requests.errors import InvalidRequest

NAMES = FieldNames(
    {
        "messages": "input",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text.format",
        "tools[].function": "tools[]",
        "tools[].function.parameters": "tools[].input_schema",
        "stop": "stop_sequences",
    },
    ["instructions", "input[0]"],
)


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages", "input"),
        ("messages[0].content", "instructions"),
        ("messages[1]", "input[0]"),
        ("messages[7]", "input"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format.json_schema.name", "text.format.json_schema.name"),
        ("tools[3].function.name", "tools[3].name"),
        ("tools[0].function.parameters.type", "tools[0].input_schema.type"),
        ("stop", "stop_sequences"),
        ("stop_token_ids", "stop_token_ids"),
        ("temperature", "temperature"),
        (None, None),
    ],
)
def test_the_param_is_the_callers(param: str | None, expected: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught, NAMES.of_the_caller():
        raise InvalidRequest(f"{param} is wrong, not max_completion_tokens or messages.", param=param)
    assert caught.value.param == expected
    if param is not None:
        other = "input" if param == "messages" else "messages"
        assert caught.value.message == f"{expected} is wrong, not max_output_tokens or {other}."
        assert str(caught.value) == caught.value.message


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="max_completion_tokens"), NAMES.of_the_caller():
        raise ValueError("max_completion_tokens")
