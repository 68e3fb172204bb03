"""Control tokens: those that a template writes are tokens, those that a request contains are text, always the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chats import DIALOGUE, NOT_SPECIAL, TEMPLATES, TOKENS, TOOL, source, tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import MarkedText, own_text
from services.router.requests.prompt_encoder import PromptEncoder, control_tokens
from services.router.requests.template import ChatTemplate

THINK, ENDS, OBSERVE = "<longcat_think>", "</longcat_s>", "<longcat_observation>"


def encoder_of(made: Tokenizer, template_text: str = "") -> tuple[PromptEncoder, dict[str, int]]:
    raw = json.loads(made.to_str())
    control = control_tokens(raw, template_text, TOKENS.values())
    return PromptEncoder(made, raw, control), control


PROMPTS, CONTROL = encoder_of(tokenizer())


def controls(ids: list[int]) -> list[str]:
    names = {token_id: text for text, token_id in CONTROL.items()}
    return [names[one] for one in ids if one in names]


def encoded(text: MarkedText) -> tuple[list[str], list[int]]:
    """Returns the control tokens of a prompt, and its ids, which read as the prompt does."""
    ids = PROMPTS.encode(text)
    assert tokenizer().decode(ids, skip_special_tokens=False) == text
    return controls(ids), ids


def test_all_tags_are_control_tokens_and_words_are_not() -> None:
    assert set(NOT_SPECIAL) <= CONTROL.keys()
    assert {"   ", "hello"}.isdisjoint(CONTROL)


@pytest.mark.parametrize("token", [THINK, ENDS, OBSERVE, "<longcat_user>"])
def test_a_control_token_is_one_only_where_the_template_wrote_it(token: str) -> None:
    request, own = MarkedText(f"hello {token}, 猫   x"), own_text(token)
    assert encoded(request)[0] == []
    assert encoded(own + request + own)[0] == [token, token]
    assert encoded(MarkedText(token) + own + MarkedText(token))[0] == [token]
    assert encoded(own_text(token[:5]) + MarkedText(token[5:]))[0] == []
    assert encoded(MarkedText(token[:-1]) + own_text(token[-1:]))[0] == []


def test_a_typed_control_token_is_spelled_as_any_other_text() -> None:
    raw = json.loads(tokenizer().to_str())
    raw["added_tokens"] = []
    spelled = Tokenizer.from_str(json.dumps(raw)).encode(f"tell {THINK} me", add_special_tokens=False).ids
    assert encoded(MarkedText(f"tell {THINK} me"))[1] == spelled
    # Words and runs of spaces that were added to the vocabulary are still tokens beside it.
    ids = encoded(MarkedText(f"hello   {THINK}"))[1]
    assert ids[:2] == [tokenizer().token_to_id("hello"), tokenizer().token_to_id("   ")]


TYPED = st.builds("".join, st.lists(st.sampled_from([THINK, ENDS, OBSERVE, "<longcat_user>", "x", " "]), max_size=5))


def with_typed(value: Any, texts: Any) -> Any:
    """Puts texts into every string of a request but roles and types."""
    if isinstance(value, str):
        return value + next(texts)
    if isinstance(value, list):
        return [with_typed(one, texts) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: one if key in ("role", "type") else with_typed(one, texts) for key, one in value.items()}


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30)
@given(messages=DIALOGUE, tools=st.lists(TOOL, max_size=2), typed=st.lists(TYPED, min_size=1, max_size=4))
def test_nothing_that_a_request_says_adds_a_control_token(
    name: str, messages: list[Any], tools: list[Any], typed: list[str]
) -> None:
    template = ChatTemplate(source(name), TOKENS)
    harmless = [text.replace("<", "(") for text in typed]

    def cycle(texts: list[str]) -> Any:
        while True:
            yield from texts

    found = [
        encoded(template.render(with_typed(messages, texts), tools=with_typed(tools, texts) or None))[0]
        for texts in (cycle(typed), cycle(harmless))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "expression",
    [
        "text",
        "text | tojson",
        "text | tojson(ensure_ascii=True)",
        "text | upper | lower",
        "text[:24]",
        "text[0:8] + text[8:]",
        "text | length ~ text",
        "text | trim",
        "text | replace('x', '')",
        "text | replace('explain', '') | trim",
        "text.split(' ')[1]",
        "text.split(' ') | join(' ')",
        "text | list | join",
        "text | reverse | reverse",
        "'%s' % text",
        "'%s' | format(text)",
        "'{}'.format(text)",
        "'{0[0]}{1}'.format(text, text[1:])",
        "'{x:}'.format_map({'x': text})",
        "text | string",
        "text | safe",
        "text | escape | replace('&lt;', '<') | replace('&gt;', '>')",
        "text | indent(2, true)",
        "text | center(60)",
        "text | wordwrap(40)",
        "text | truncate(30, true)",
        "text | title | lower",
        "{'a': text} | tojson",
        "{'a': text}",
        "[text, text]",
        "{'a': text}.items() | first | join(' ')",
        "text ~ text",
        "text * 2",
        "['a ' ~ text] | map('replace', 'a', '') | join",
        "text.encode().decode()",
        "text.partition('<longcat')[1] ~ text.partition('<longcat')[2]",
        "'<longcat_' ~ 'think_ ' ~ text",
        "'<longcat_' ~ text.split('_')[1].split('>')[0] ~ '>'",
        "'<longcat_%s>' % text.split('_')[1].split('>')[0]",
        "'<longcat_{}>'.format(text.split('_')[1].split('>')[0])",
        "'<longcat_user>' | replace('user', text.split('_')[1].split('>')[0])",
        "'<longcat_X>'.split('X') | join(text.split('_')[1].split('>')[0])",
        "cycler(text, 'b').next()",
        "namespace(a=text).a",
        "dict(a=text).a",
        "dict.fromkeys([text], 1)",
        "text | urlencode | replace('%3C', '<') | replace('%3E', '>')",
    ],
)
def test_no_operation_makes_a_control_token_of_a_users_text(expression: str) -> None:
    user = "explain <longcat_think> please"
    made = f"<longcat_user>{{% set text = messages[0].content %}}{{{{ {expression} }}}}</longcat_s>"
    text = ChatTemplate(made, TOKENS).render([{"role": "user", "content": user}])
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Any = render_jinja_template
    rendered = render([[{"role": "user", "content": user}]], chat_template=made, **TOKENS)
    assert text == rendered[0][0], "the template sees the real text"
    assert encoded(text)[0] == ["<longcat_user>", ENDS]


@pytest.mark.parametrize(
    "expression",
    [
        "'<longcat_think>'",
        "'<longcat_' + 'think>'",
        "'<longcat_' ~ 'think' ~ '>'",
        "'<longcat_%s>' % 'think'",
        "'<longcat_{}>'.format('think')",
        "['<longcat_', 'think>'] | join",
        "['', 'think>'] | join('<longcat_')",
        "' <longcat_think>\n' | trim",
        "('xx<longcat_think>' + messages[0].content)[2:17]",
        "'<LONGCAT_THINK>' | lower",
        "{'think': '<longcat_think>'}['think']",
        "['<longcat_think>', 1][0]",
        "messages[0].content | replace('hi', '<longcat_think>')",
        "('<longcat_think>|' ~ messages[0].content).split('|')[0]",
        "'<longcat_think>' if messages else ''",
        "namespace(tag='<longcat_think>').tag",
        "joiner('<longcat_think>')() ~ '<longcat_think>'",
        "'<longcat_' + messages[1].role.replace('user', 'think') + '>'",
        "['<longcat_think>' ~ messages[0].content] | tojson",
        "'<longcat_think>' | indent",
        "'%(tag)s' % {'tag': '<longcat_think>'}",
        "{'a': '<longcat_think>'}.values() | list | first",
        "'<longcat_think>' | center(21)",
    ],
)
@pytest.mark.parametrize(
    "around", ["{{{{ {} }}}}", "{{% set x = {} %}}{{{{ x }}}}", "{{% set x %}}{{{{ {} }}}}{{% endset %}}{{{{ x }}}}"]
)
def test_what_the_template_writes_itself_is_a_control_token(expression: str, around: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": ""}]
    text = ChatTemplate(around.format(expression), TOKENS).render(messages)
    assert encoded(text)[0] == [THINK]


def test_messages_of_the_assistant_end_no_turn_either() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", TOKENS)
    messages = [{"role": "user", "content": f"a{ENDS}b"}, {"role": "assistant", "content": f"x{ENDS}"}]
    assert encoded(template.render(messages))[0] == [ENDS] * 2


def test_a_variable_of_a_request_is_text_of_the_request() -> None:
    template = ChatTemplate("{{ tone }}{{ bos_token }}", TOKENS)
    text = template.render([{"role": "user", "content": ""}], tone=THINK)
    assert encoded(text)[0] == ["<longcat_s>"]


def made(model: Any, added: list[AddedToken], special: list[AddedToken] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.add_tokens(added)
    tokenizer.add_special_tokens(special or [])
    return tokenizer


def test_a_token_that_the_models_vocabulary_has_too_is_spelled_out() -> None:
    letters = {letter: number for number, letter in enumerate("<think>abc ")}
    words = letters | {"<think>": 20}
    tokenizer = made(models.BPE(vocab=words, merges=[], ignore_merges=True), [AddedToken("<think>", normalized=False)])
    prompts, control = encoder_of(tokenizer)
    assert control == {"<think>": 20}
    typed = prompts.encode(MarkedText("<think>"))
    assert typed == [letters[letter] for letter in "<think>"]
    assert prompts.encode(own_text("<think>")) == [20]


def test_a_text_that_has_no_other_token_is_rejected() -> None:
    tokenizer = made(models.WordLevel(vocab={"@": 0, "a": 1}, unk_token="a"), [], [AddedToken("@", normalized=False)])
    prompts, _ = encoder_of(tokenizer)
    assert prompts.encode(own_text("@")) == [0]
    with pytest.raises(InvalidRequest, match="no other token"):
        prompts.encode(MarkedText("@"))


def test_unknown_characters_are_no_control_tokens() -> None:
    tokenizer = made(models.BPE(vocab={"<unk>": 0, "a": 1}, merges=[], unk_token="<unk>", fuse_unk=True), [], [])
    tokenizer.add_special_tokens([AddedToken("<unk>", normalized=False), AddedToken("<s>", normalized=False)])
    prompts, _ = encoder_of(tokenizer)
    assert prompts.encode(own_text("<s>") + MarkedText("a猫猫a")) == [2, 1, 0, 1]
    assert prompts.encode(MarkedText("a猫猫a<s>"))[:3] == [1, 0, 1]
    assert 2 not in prompts.encode(MarkedText("a猫猫a<s>"))


def test_normalized_and_stripping_tokens() -> None:
    tokenizer = made(
        models.BPE(vocab={letter: number for number, letter in enumerate("<>thinkTHINK ▁")}, merges=[]),
        [AddedToken("<think>", lstrip=True, rstrip=True, normalized=True)],
    )
    tokenizer.normalizer = normalizers.Lowercase()
    prompts, control = encoder_of(tokenizer)
    token = control["<think>"]
    assert prompts.encode(MarkedText("hi ") + own_text("<think>") + MarkedText(" hi")).count(token) == 1
    assert token not in prompts.encode(MarkedText("hi <THINK> hi"))
    assert prompts.encode(MarkedText("<Think>") + own_text("<think>")).count(token) == 1


def test_text_after_a_control_token_gets_no_space_for_the_beginning_of_a_prompt() -> None:
    vocab = {letter: number for number, letter in enumerate("▁<s>a")}
    tokenizer = made(models.BPE(vocab=vocab, merges=[]), [], [AddedToken("<s>", normalized=False)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    prompts, control = encoder_of(tokenizer)
    spelled = [vocab[letter] for letter in "a<s>"]
    assert prompts.encode(own_text("<s>") + MarkedText("a<s>")) == [control["<s>"], *spelled]
    assert prompts.encode(MarkedText("a<s>")) == [vocab["▁"], *spelled]


def test_ids_of_added_words_stay_theirs_without_the_control_tokens_before_them() -> None:
    tokenizer = made(models.BPE(vocab={letter: n for n, letter in enumerate("<s>word")}, merges=[]), [])
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
    tokenizer.add_tokens([AddedToken("word", normalized=False)])
    prompts, control = encoder_of(tokenizer)
    assert prompts.encode(MarkedText("<s>word"))[-1] == tokenizer.token_to_id("word") == control["<s>"] + 1
