"""What pydantic finds wrong with a body, as one error in the words of the API: the field's path, and one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from services.router.requests.errors import InvalidRequest

MAX_NAME = 40  # characters of a field's name in an error
SHOWN_WORD, SHOWN_NUMBER = re.compile(r"[A-Za-z0-9_.:/-]{1,40}"), 10**20  # invalid values that errors repeat
CODES = {
    "missing": "missing_required_parameter",
    "greater_than": "value_out_of_range",
    "greater_than_equal": "value_out_of_range",
    "less_than": "value_out_of_range",
    "less_than_equal": "value_out_of_range",
    "finite_number": "value_out_of_range",
    "too_long": "value_out_of_range",
    "too_short": "value_out_of_range",
}
BEGIN = "Input should be "
OBJECT = ("model_type", "model_attributes_type", "dict_type")  # pydantic says which class of ours

Place = list[int | str]


def first_error(error: ValidationError, value: Any) -> InvalidRequest:
    """Returns the first of pydantic's errors, in one sentence, with the invalid value if it is a short one."""
    first, place, expected = _nearest(error, value)
    kind, param = first["type"], path_of(place)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InvalidRequest):
        return _within(param, cause)
    if kind == "extra_forbidden":
        return InvalidRequest(f"Unknown parameter: '{param}'.", param=param or None, code="unknown_parameter")
    if kind == "missing":
        message = f"{param} is required."
    else:
        message = f"{param and param + ': '}{expected[:200]}{_instead(first['input'])}."
    return InvalidRequest(message, param=param or None, code=CODES.get(kind, "invalid_type"))


def _nearest(error: ValidationError, value: Any) -> tuple[Any, Place, str]:
    """Returns the error that says most of the first field that is wrong, its place, and what is expected there.

    Of a value that may be of several kinds pydantic has the errors of each; the kind that is meant is the one of which
    a part could be read.
    """
    errors = [_untagged(one) for one in error.errors(include_url=False)]
    found = [(one, _place(one, value)) for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    first, place = max(found, key=lambda one: len(one[1]))
    kinds = dict.fromkeys(_words(one) for one, at in found if at == place and one["input"] is first["input"])
    one, *others = kinds
    if not all(each.startswith(BEGIN) for each in kinds):
        return first, place, one
    return first, place, " or ".join([one, *(other.removeprefix(BEGIN) for other in others)])


def _words(error: Any) -> str:
    said = str(error["msg"])
    return f"{BEGIN}an object" if error["type"] in OBJECT else said.removeprefix("Value error, ")


def _untagged(error: Any) -> Any:
    """Returns the error of an object of no known type as one about its field `type`."""
    field = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
    given = error["input"].get(field) if isinstance(error["input"], dict) else None
    if error["type"] == "union_tag_not_found" and isinstance(error["input"], dict):
        return {"type": "missing", "loc": (*error["loc"], field), "msg": "", "input": error["input"]}
    if error["type"] == "union_tag_invalid":
        expected = f"{BEGIN}{error['ctx']['expected_tags'].replace(', ', ' or ')}"
        return {"type": "literal_error", "loc": (*error["loc"], field), "msg": expected, "input": given}
    return error


def _instead(value: Any) -> str:
    """The invalid value, as an error may show it: a number, a truth value, or a short word."""
    if isinstance(value, bool | int | float) and abs(value) < SHOWN_NUMBER:
        return f", not {json.dumps(value)}"
    return f", not '{value}'" if isinstance(value, str) and SHOWN_WORD.fullmatch(value) else ""


def _within(place: str, error: InvalidRequest) -> InvalidRequest:
    """Returns the error of an object as one of the body that has the object at `place`."""
    if not place or error.param is None:
        return error
    param = f"{place}.{error.param}"
    return InvalidRequest(error.message.replace(error.param, param, 1), param=param, code=error.code)


def _place(error: Any, value: Any) -> Place:
    """Returns where an error of pydantic is, without the kinds of value that pydantic names there, too.

    It is followed through the value down to what the error is about; a field that is missing is within that.
    """
    place: Place = []
    missing = error["type"] == "missing"
    for part in error["loc"]:
        if value is error["input"] and not missing and isinstance(value, dict | list):
            break
        if isinstance(part, int):
            value = value[part] if isinstance(value, list) and part < len(value) else None
            place.append(part)
        elif isinstance(value, dict) and (part in value or (missing and part == error["loc"][-1])):
            value = value.get(part)
            place.append(part)
    return place


def path_of(place: Sequence[int | str]) -> str:
    """Returns a place as `messages[0].content`, without the names that are the client's own."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and len(part) <= MAX_NAME:
            text += f".{part}" if text else part
    return text
