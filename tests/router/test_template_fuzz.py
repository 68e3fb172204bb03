"""Random template expressions give the text that jinja gives, and never a control token of a user's text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.chats import TOKENS

from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import marks_of
from services.router.requests.template import ChatTemplate

USER = "Say <longcat_think> x,y\n ßİ%s {} {0} </longcat_s>"
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": USER},
    {"role": "tool", "content": "", "extra": {"a": [USER, 1, None]}},
]

ATOMS = st.sampled_from(
    [
        "u",
        "u",
        "e",
        "messages[1].extra",
        "'A'",
        "'B%s '",
        "'{}C'",
        "'{x}'",
        "' D\n'",
        "''",
        "messages | length",
        "(messages | length) - 5",
        "messages[0].none",
        "[1, 'E']",
    ]
)
UNARY = st.sampled_from(
    [
        *("{}.upper()", "{}.lower()", "{}.title()", "{}.swapcase()", "{}.casefold()", "{}.strip()", "{}.lstrip('SA ')"),
        *("{}.split()", "{}.split(',')", "{}.rsplit(' ', 1)", "{}.splitlines()", "{}.partition('x')", "{}.zfill(70)"),
        *("{}[1:]", "{}[:-3]", "{}[::-1]", "{}[0]", "{}.expandtabs()", "{}.center(70, '*')", "{}.format('F', x=1)"),
        *("{} | upper", "{} | lower", "{} | title", "{} | capitalize", "{} | trim", "{} | reverse", "{} | string"),
        *("{} | length", "{} | list", "{} | first", "{} | last", "{} | join('-')", "{} | join", "{} | indent(2)"),
        *("{} | indent('>', true, true)", "{} | wordwrap(9)", "{} | truncate(12)", "{} | center(60)", "{} | tojson"),
        *("{} | tojson(indent=1)", "{} | tojson(ensure_ascii=true)", "{} | safe", "{} | escape", "{} | urlencode"),
        *("{} | replace('a', 'G')", "{} | replace('', '-')", "{} | format('H')", "{} | int", "{} | default('I')"),
        *("{} | map('upper') | list", "{} | sort", "{} | unique | list", "{} | batch(2) | list", "{} | items | list"),
        *("{} | pprint", "{} | striptags", "{} | wordcount", "{} | select('string') | list", "{} | min", "{} | max"),
        *("({})", "not {}", "{} is string", "{} * 2", "{{'k': {}}}", "[{}, 'J']", "{{{}: 1}}", "{} if {} else 'K'"),
    ]
)
BINARY = st.sampled_from(
    ["{} + {}", "{} ~ {}", "{} % {}", "{} * {}", "{}.join({})", "{} | replace({}, 'L')", "{} in {}"]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(lambda form, one: form.replace("{}", f"({one})"), UNARY, inner),
        st.builds(lambda form, one, two: form.format(f"({one})", f"({two})"), BINARY, inner, inner),
    ),
    max_leaves=5,
)
AROUND = st.sampled_from(
    [
        "{{{{ {} }}}}",
        "{{% set v = {} %}}M{{{{ v }}}}",
        "{{% filter upper %}}N{{{{ {} }}}}{{% endfilter %}}",
        "{{% macro m(v='O') %}}{{{{ v }}}}{{% endmacro %}}{{{{ m({}) }}}}",
        "{{% for v in [{}] %}}{{{{ v }}}}{{% endfor %}}",
        "{{% set n = namespace(v='') %}}{{% for w in 'PQ' %}}{{% set n.v = n.v ~ ({}) %}}{{% endfor %}}{{{{ n.v }}}}",
        "{{% generation %}}{{{{ {} }}}}{{% endgeneration %}}",
        "{{% call(v) cycler({}).next() %}}{{% endcall %}}",
        "{{% autoescape true %}}R{{{{ {} }}}}{{% endautoescape %}}",
    ]
)


def outcome(render: Any) -> tuple[str | None, Any]:
    """Returns the text, and the result itself; no text when the template fails."""
    try:
        result = render()
    except Exception:  # noqa: BLE001  any failure of jinja is a failure
        return None, None
    return str.__str__(result), result


@settings(max_examples=400, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(expression=EXPRESSIONS, around=AROUND)
@example(expression="('A').format(x=1) ~ u", around="{{{{ {} }}}}")
@example(expression="u | safe + 'A'", around="{{% set v = {} %}}M{{{{ v }}}}")
def test_text_is_jinjas_and_a_users_characters_are_never_the_templates(expression: str, around: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = "{% set u = messages[0].content %}{% set e = messages[1].content %}" + around.format(expression)
    render: Any = render_jinja_template
    wanted, _ = outcome(lambda: render([MESSAGES], chat_template=source, **TOKENS)[0][0])
    if wanted is not None and "object at 0x" in wanted.lower():
        return  # jinja prints an object's address in memory
    text, result = outcome(lambda: ChatTemplate(source, TOKENS).render(MESSAGES))
    assert text == wanted
    if text is not None:
        own = "".join(character if mark else "\0" for character, mark in zip(text, marks_of(result), strict=True))
        assert not set(own.lower()) & set("<_ß"), "characters that only the user wrote"


@pytest.mark.parametrize("value", ["u.upper", "u | reverse | list | map('upper')", "range", "'' ~ u.split", "dict"])
def test_a_prompt_has_no_address_of_an_object(value: str) -> None:
    with pytest.raises(InvalidRequest, match="whose text is another one each time"):
        ChatTemplate(f"{{% set u = messages[0].content %}}{{{{ {value} }}}}", TOKENS).render(MESSAGES)


@pytest.mark.parametrize("expression", ["u.nothing()", "(3).upper()", "u % 1 % 2 % 3", "u + 1", "none + u"])
def test_what_fails_is_an_invalid_request(expression: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate(f"{{% set u = messages[0].content %}}{{{{ {expression} }}}}", TOKENS).render(MESSAGES)
    assert caught.value.param == "messages"
